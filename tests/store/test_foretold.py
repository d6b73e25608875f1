"""Layouts of large caches, on paper: units, shards, folders and files, from the functions that a dump asks."""

from collections import Counter

import pytest

from kdcache.corpus.cutting import LEAST_SHARD_BYTES, MOST_SHARD_BYTES, auto_unit_rows
from kdcache.store.foretold import bytes_per_token
from kdcache.store.places import record_name
from kdcache.store.schema import task_fields
from kdcache.targets.records import record_kinds
from kdcache.tasks import task_of

CLASSES, WIDTH, TEXT_OF_A_TOKEN, ROW = 49_152, 576, 4, 4_000
GIB, HUB_FILES, HUB_ENTRIES = 1 << 30, 100_000, 10_000
FOUND: dict[str, tuple[object, int | None]] = {
    "default": ({"kind": "sampled"}, 63),
    "one temperature": ({"kind": "sampled", "exact_top_k": 0, "samples": 21, "curve": {"temperatures": [1.0]}}, 43),
    "RS-KD": ({"kind": "drawn", "samples": 50}, 31),
    "top 50": ({"kind": "top_k", "k": 50}, 158),
    "factored 64": ({"kind": "factored", "rank": 64}, 74),
    "factored full": ({"kind": "factored"}, 429),
    "dense": ({"kind": "dense"}, 98_000),
    "features": ({"kind": "features"}, None),
    "captured": ({"kind": "captured", "k": 20}, None),
    "labels": (None, None),
}
"""Bytes per position that RECORDS.md prints, of 49,152 classes and a width of 576."""


def foretold(record: object, task: str = "causal_lm", classes: int = CLASSES) -> float:
    kinds = record_kinds(record)
    wide = WIDTH if any(kind.features_at for kind in kinds) else None
    rank = next((WIDTH if kind.rank == "full" else kind.rank for kind in kinds if kind.calibrated), None)  # type: ignore[attr-defined]
    of_task = task_of({"name": task})
    fields = task_fields(of_task, CLASSES, classes, kinds, features=wide, rank=rank)
    return bytes_per_token(fields, kinds, classes, one_position=of_task.one_position)


def units(corpus_bytes: int, share: float | None) -> tuple[int, float]:
    """How many units such a corpus has, and how many bytes a shard, by what is foretold."""
    rows = max(1, corpus_bytes // ROW)
    number = -(-rows // auto_unit_rows(rows, corpus_bytes, share))
    return number, corpus_bytes * (share or 0) / number


@pytest.mark.parametrize("name", [name for name, (_, found) in FOUND.items() if found])
def test_what_is_foretold_holds_within_a_factor_of_two(name: str) -> None:
    record, found = FOUND[name]
    assert found is not None
    assert found / 2 <= foretold(record) <= found * 2


@pytest.mark.parametrize("name", FOUND)
@pytest.mark.parametrize("corpus_bytes", [100 * GIB, 400 * 10**9], ids=["100 GiB", "100 B tokens"])
def test_a_large_corpus_fits_folders_and_the_hub(name: str, corpus_bytes: int) -> None:
    """Where it can: 50,000 shards of 256 MB are 12.8 TB, which a dense record of a language model fills 200 times."""
    share = foretold(FOUND[name][0]) / TEXT_OF_A_TOKEN
    number, shard = units(corpus_bytes, share)
    assert shard <= 1.01 * MOST_SHARD_BYTES
    if shard < LEAST_SHARD_BYTES:  # labels alone: units are as large as units become
        assert corpus_bytes / number > 0.99 * (32 << 20)
    if corpus_bytes * share < 12.7e12:
        assert 2 * number + 200 < HUB_FILES
    else:
        assert shard > 0.9 * MOST_SHARD_BYTES
    folders = Counter(record_name(unit).rsplit("/", 1)[0] for unit in range(0, min(number, 60_000)))
    assert 2 * max(folders.values()) <= 1_000
    assert -(-number // 500) <= (1_000 if number <= 500_000 else HUB_ENTRIES) or name == "dense"


@pytest.mark.parametrize("name", FOUND)
def test_small_corpora_still_have_many_units(name: str) -> None:
    share = foretold(FOUND[name][0]) / TEXT_OF_A_TOKEN
    last = 0
    for corpus_bytes in (10_000, 200_000, 10 << 20, 64 << 20, GIB, 4 * GIB, 20 * GIB, 100 * GIB):
        number, shard = units(corpus_bytes, share)
        without, _ = units(corpus_bytes, None)
        assert number >= min(without, 1_000)
        assert shard <= 1.01 * MOST_SHARD_BYTES or number == corpus_bytes // ROW
        assert number >= last
        last = number
        if corpus_bytes <= GIB and without * MOST_SHARD_BYTES > corpus_bytes * share:
            assert number == without, "as ever"


def test_shards_of_the_default_record_on_paper() -> None:
    share = foretold({"kind": "sampled"}) / TEXT_OF_A_TOKEN
    sizes = {gib: units(gib * GIB, share) for gib in (1, 4, 20, 100, 400)}
    assert {gib: (number, round(shard / 1e6)) for gib, (number, shard) in sizes.items()} == {
        1: (513, 37),
        4: (1179, 64),
        20: (5894, 64),
        100: (8195, 230),
        400: (29450, 256),
    }


def test_rows_of_a_unit_are_few_enough_for_its_example_numbers() -> None:
    for task, record in (("sequence_classification", {"kind": "dense"}), ("causal_lm", None)):
        share = foretold(record, task, 4 if task != "causal_lm" else CLASSES) / TEXT_OF_A_TOKEN
        assert auto_unit_rows(10**9, 90 * 10**9, share) <= 1 << 18
