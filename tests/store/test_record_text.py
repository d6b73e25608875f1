"""Plain commit records are read by a pattern: never one that the parser would refuse, and never otherwise."""

import json
from pathlib import Path
from random import Random

import pytest
from store.fuzzing import change_bytes, change_value

from kdcache.errors import CacheError
from kdcache.store.manifest import CommitRecord, canonical, parse
from kdcache.store.record_text import PlainRecord, read_plain
from kdcache.store.table import COUNTS

GOLDEN = sorted((Path(__file__).parent / "golden").glob("*/shards/000/*.json"))
NESTED = {"multilabel_classification", "regression", "sequence_classification", "token_classification"}


def same(plain: PlainRecord, record: CommitRecord) -> bool:
    """Whether both say the same."""
    texts = {"notes": plain.notes, "score": plain.score, "made_under": plain.made_under}
    values = {name: json.loads(text) for name, text in texts.items() if text}
    direct = ("unit", "file", "block_examples", "sha256", "source_sha256", "header_sha256")
    score = None if record.score is None else record.score.root
    return (
        all(getattr(plain, name) == getattr(record, name) for name in direct)
        and plain.counts == tuple(getattr(record, name) for name in COUNTS)
        and (values.get("notes", {}), values.get("made_under")) == (record.notes, record.made_under)
        and values.get("score") == score
        and record.skipped is None
    )


def records() -> list[bytes]:
    """Golden ones and ones with everything that a plain record may have."""
    found = [path.read_bytes() for path in GOLDEN]
    more = json.loads(found[0])
    more |= {"notes": {"cut": 2, "truncated": 1}, "made_under": {"on_bad_row": "skip", "overlong": "truncate"}}
    more |= {"frame": f"7 9 {'a' * 64}", "source_sha256": ""}
    return [*found, canonical(CommitRecord.model_validate(more))]


@pytest.mark.parametrize("data", records())
def test_what_is_plain_is_read_as_the_parser_reads_it(data: bytes) -> None:
    plain, record = read_plain(data), parse(CommitRecord, data, "a record")
    nested = record.score is not None and any(isinstance(value, dict) for value in record.score.root.values())
    assert plain is None if nested else plain is not None and same(plain, record)


@pytest.mark.parametrize("seed", range(8))
def test_nothing_passes_that_the_parser_refuses(seed: int) -> None:
    rng, texts, passed = Random(seed), records(), 0
    for _ in range(400):
        data = rng.choice(texts)
        if rng.random() < 0.5:
            changed = change_bytes(rng, data)
        else:
            values = change_value(rng, json.loads(data))
            changed = (json.dumps(values, sort_keys=rng.random() < 0.9, indent=1) + "\n").encode()
        plain = read_plain(changed)
        if plain is not None:
            passed += changed != data
            try:
                record = parse(CommitRecord, changed, "a record")
            except CacheError as error:
                raise AssertionError(f"{changed.decode()} passes, where the parser says {error}") from None
            assert same(plain, record)
    assert passed


def test_numbers_beyond_what_a_record_may_hold_do_not_pass() -> None:
    values = json.loads(records()[0])
    for name, number in (("unit", 1 << 48), ("tokens", 1 << 48), ("block_examples", (1 << 20) + 1), ("bytes", 0)):
        text = (json.dumps(values | {name: number}, sort_keys=True, indent=1) + "\n").encode()
        assert read_plain(text) is None
        with pytest.raises(CacheError):
            parse(CommitRecord, text, "a record")
