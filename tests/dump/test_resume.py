"""A dump that goes on after its corpus or its settings for bad rows changed: what a fresh dump writes, and no more.

Every case ends in a comparison of all files with those of a fresh dump.
"""

import json
import os
import random
import signal
import time
from collections.abc import Callable
from pathlib import Path

import pytest
from classes import moods
from helpers import files_of, fork_rank, kdcache, sentences

from kdcache.corpus import cutting
from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.errors import CacheError, CorpusError, KdcacheError, RowError
from kdcache.launcher import World
from kdcache.store.builder import CacheBuilder
from kdcache.store.cache import read_manifest
from kdcache.store.files import Root
from kdcache.store.skipped import read_skipped
from kdcache.store.verify import verify

MakeConfig = Callable[..., DumpConfig]
ROWS, UNIT_ROWS = 22, 3
DOCUMENTS = {"packing": "documents", "sequence_length": 64}


def dump(config: DumpConfig, world_size: int = 1) -> None:
    """All ranks, one after the other; the first error is raised after all have run, as with ranks side by side."""
    errors = []
    for rank in range(world_size):
        try:
            run_dump(config, World(rank, world_size))
        except KdcacheError as error:
            errors.append(error)
    if errors:
        raise errors[0]


def times(cache: Path) -> dict[str, int]:
    return {path.name: path.stat().st_mtime_ns for path in (cache / "shards/000").iterdir()}


def remade(before: dict[str, int], cache: Path) -> set[int]:
    """Units whose shards were written again or are gone."""
    after = times(cache)
    return {int(name[:6]) for name, time in before.items() if after.get(name) != time}


def texts(count: int = ROWS, seed: int = 3) -> list[str]:
    """Short documents."""
    return [" ".join(text.split()[:12]) for text in sentences(count, seed)]


@pytest.fixture
def make(make_config: MakeConfig, tmp_path: Path) -> MakeConfig:
    """make(cache, rows of the corpus, **sections): the corpus is written anew."""

    def config(cache: str, rows: list[str] | None, **sections: object) -> DumpConfig:
        if rows is not None:
            (tmp_path / "corpus.jsonl").write_text("".join(f"{row}\n" for row in rows))
        sections["corpus"] = {"unit_rows": UNIT_ROWS, **(sections.get("corpus") or {})}  # type: ignore[dict-item]
        return make_config(tmp_path / cache, **{"task": DOCUMENTS, **sections})

    return config


def lines(documents: list[str]) -> list[str]:
    return [json.dumps({"text": text}) for text in documents]


BAD = {
    "overlong": json.dumps({"text": " ".join(sentences(9))}),
    "not JSON": '{"text": ',
    "no field": '{"title": "x"}',
    "wrong type": '{"text": 5}',
}


@pytest.mark.parametrize(("kind", "world_size"), [("overlong", 1), ("overlong", 3), ("not JSON", 3)])
def test_after_a_mended_row_only_its_unit_is_made(
    make: MakeConfig, tmp_path: Path, kind: str, world_size: int, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = lines(texts())
    with pytest.raises(RowError, match=rf"^corpus\.jsonl:{ROWS}\b"):
        dump(make("cache", [*rows[:-1], BAD[kind]]), world_size)
    before = times(tmp_path / "cache")
    assert len(before) == 2 * 7
    dump(make("cache", rows), world_size)
    assert remade(before, tmp_path / "cache") == set()
    assert "cannot stay" not in capfd.readouterr().err
    dump(make("fresh", None))
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "fresh")


def test_a_finished_cache_follows_its_corpus(
    make: MakeConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    """Rows changed, appended, removed; a file renamed, cut in two, and rewritten with other times."""
    rows = lines(texts())
    dump(make("cache", rows))
    changes: list[tuple[list[str], set[int], str]] = [
        ([*rows[:4], json.dumps({"text": "another row"}), *rows[5:]], {1}, "1 shard of 8 cannot stay: their rows"),
        ([*rows, *lines(texts(5, seed=9))], {7}, "1 shard of 8 cannot stay: their rows of the corpus changed"),
        (rows[:9], {*range(3, 9)}, "6 shards of 9 cannot stay: the corpus ends before them"),
    ]
    base = rows
    for number, (changed, expected, words) in enumerate(changes):
        dump(make("cache", base))
        before = times(tmp_path / "cache")
        digest = read_manifest(Root(tmp_path / "cache")).digest()
        capfd.readouterr()
        for rank in (2, 0, 1):
            run_dump(make("cache", changed), World(rank, 3))
        assert words in capfd.readouterr().err
        assert remade(before, tmp_path / "cache") == expected
        assert read_manifest(Root(tmp_path / "cache")).digest() != digest
        dump(make(f"fresh{number}", None))
        assert files_of(tmp_path / "cache") == files_of(tmp_path / f"fresh{number}")
        base = [*rows, *lines(texts(5, seed=9))] if number == 1 else rows
    (tmp_path / "corpus.jsonl").rename(tmp_path / "renamed.jsonl")
    corpus = {"paths": str(tmp_path / "renamed.jsonl")}
    capfd.readouterr()
    dump(make("cache", None, corpus=corpus))
    assert "finished already" in capfd.readouterr().err
    (tmp_path / "parts").mkdir()
    for name, part in (("x", rows[:5]), ("y", rows[5:9])):
        (tmp_path / "parts" / f"{name}.jsonl").write_text("\n".join(part) + "\n")
    before = times(tmp_path / "cache")
    dump(make("cache", None, corpus={"paths": str(tmp_path / "parts")}))
    assert remade(before, tmp_path / "cache") == set()
    assert read_manifest(Root(tmp_path / "cache")).corpus.files == 2  # type: ignore[union-attr]


def test_units_keep_their_size_when_the_corpus_grows(make: MakeConfig, tmp_path: Path) -> None:
    rows = lines(texts(130))
    auto = {"corpus": {"unit_rows": "auto"}, "teacher": "none", "tokenizer": make("x", None).teacher.path}  # type: ignore[union-attr]
    dump(make("cache", rows, **auto))
    before = times(tmp_path / "cache")
    header = (tmp_path / "cache" / "header.json").read_bytes()
    dump(make("cache", rows * 2, **auto))
    assert (tmp_path / "cache" / "header.json").read_bytes() == header
    assert remade(before, tmp_path / "cache") == set()
    assert len(times(tmp_path / "cache")) == 2 * len(before)


def test_units_are_cut_for_the_shards_that_are_foretold(
    make: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """No shard is to be larger than the largest, however much a record keeps of a token; what is begun goes on so."""
    auto, rows = {"corpus": {"unit_rows": "auto"}, "record": {"kind": "dense"}}, lines(texts(60))
    dump(make("whole", rows, **auto))
    assert len(read_manifest(Root(tmp_path / "whole")).shards) == 1
    monkeypatch.setattr(cutting, "MOST_SHARD_BYTES", 200_000)
    dump(make("cache", rows, **auto))
    sizes = [path.stat().st_size for path in (tmp_path / "cache").glob("shards/*/*.zip")]
    assert len(sizes) > 3
    assert all(size < 400_000 for size in sizes)
    monkeypatch.setattr(cutting, "MOST_SHARD_BYTES", 10**9)
    before = times(tmp_path / "cache")
    (tmp_path / "cache" / "cache.json").unlink()
    dump(make("cache", rows, **auto))
    assert remade(before, tmp_path / "cache") == set()


def test_settings_for_overlong_rows_touch_only_units_that_have_some(
    make: MakeConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = lines(texts())
    rows[10] = BAD["overlong"]
    with pytest.raises(RowError, match=r"corpus\.jsonl:11 has \d+ tokens"):
        dump(make("cache", rows), 3)
    before = times(tmp_path / "cache")
    for overlong, expected in (("truncate", set()), ("drop", {3}), ("drop", set())):
        task = {**DOCUMENTS, "overlong": overlong}
        dump(make("cache", None, task=task), 2)
        assert remade(before, tmp_path / "cache") == expected
        dump(make(f"fresh-{overlong}", None, task=task))
        assert files_of(tmp_path / "cache") == files_of(tmp_path / f"fresh-{overlong}")
        before = times(tmp_path / "cache")
    assert "1 shard of 8 cannot stay: their bad or overlong rows were treated with overlong: truncate" in (
        capfd.readouterr().err
    )


def test_bad_rows_are_skipped_counted_and_listed(make: MakeConfig, tmp_path: Path) -> None:
    rows = lines(texts())
    places = {2: "not JSON", 3: "overlong", 8: "wrong type", 9: "no field", 10: "not JSON", 11: "wrong type"}
    for row, kind in places.items():
        rows[row] = BAD[kind]
    with pytest.raises(CorpusError, match=r"got 6 bad rows so far of 22, expected at most 5 .*The first: corpus"):
        dump(make("cache", rows, on_bad_row="skip", bad_rows_at_most=0.25))
    assert len(times(tmp_path / "cache")) == 2 * 3
    skip = {"on_bad_row": "skip", "bad_rows_at_most": 0.3}
    dump(make("cache", None, **skip), 2)
    for size in (1, 3):
        dump(make(f"fresh{size}", None, **skip), size)
        assert files_of(tmp_path / "cache") == files_of(tmp_path / f"fresh{size}")
    manifest = read_manifest(Root(tmp_path / "cache"))
    assert manifest.totals.notes["skipped"] == 6
    assert manifest.totals.examples == ROWS - 6
    listed = read_skipped(Root(tmp_path / "cache"))
    assert [unit * UNIT_ROWS + row for unit, row in listed] == [*places]
    assert [place for place, _ in listed.values()] == [f"corpus.jsonl:{row + 1}" for row in places]
    assert listed[3, 0][1] == "has no field text, it has title; set corpus.text_field"
    assert "6 skipped" in kdcache("inspect", tmp_path / "cache").stdout
    assert verify(tmp_path / "cache") == []
    before = times(tmp_path / "cache")
    with pytest.raises(RowError, match=r"^corpus\.jsonl:3 is not JSON"):
        dump(make("cache", None))
    rows[8] = rows[0]
    dump(make("cache", rows, **skip))
    assert remade(before, tmp_path / "cache") == {2}
    (tmp_path / "cache" / "skipped.jsonl").unlink()
    assert [fault.shard for fault in verify(tmp_path / "cache")] == ["skipped.jsonl"]
    mended = lines(texts())
    dump(make("cache", mended))
    dump(make("fresh", None))
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "fresh")


def labelled(tmp_path: Path, cache: str, rows: list[str], tokenizer: object, **settings: object) -> DumpConfig:
    """A label-only cache of texts with a mood; the corpus is written anew."""
    path = tmp_path / "moods.jsonl"
    path.write_text("".join(f"{row}\n" for row in rows))
    corpus = {"paths": str(path), "format": "jsonl", "label_field": "label", "unit_rows": UNIT_ROWS}
    task = {"name": "sequence_classification", **settings.pop("task", {})}  # type: ignore[dict-item]
    values = {"output": str(tmp_path / cache), "corpus": corpus, "task": task, "tokenizer": str(tokenizer)}
    return DumpConfig.model_validate({**values, "teacher": "none", "compute": {"threads": 1}, **settings})


@pytest.mark.parametrize("tokenizer", ["characters", "teacher"])
def test_classifications_without_a_teacher(
    tmp_path: Path, teacher_folder: Path, tokenizer: str, capfd: pytest.CaptureFixture[str]
) -> None:
    """Labels and characters of the corpus: another corpus may give others, and then every shard is made again."""
    rows, made_by = [json.dumps(row) for row in moods(ROWS)], teacher_folder if tokenizer == "teacher" else tokenizer
    dump(labelled(tmp_path, "cache", rows, made_by))
    before = times(tmp_path / "cache")
    same_words = json.loads(rows[7])
    same_words["text"] = " ".join(reversed(same_words["text"].split()))
    rows[7] = json.dumps(same_words)
    dump(labelled(tmp_path, "cache", rows, made_by), 3)
    assert remade(before, tmp_path / "cache") == {2}
    dump(labelled(tmp_path, "fresh", rows, made_by))
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "fresh")
    capfd.readouterr()
    rows[20] = json.dumps({"text": "quiz quiz", "label": "odd"})
    for rank in (1, 0, 2):
        run_dump(labelled(tmp_path, "cache", rows[:21], made_by), World(rank, 3))
    assert "than the cache was begun with: every shard is made again" in capfd.readouterr().err
    dump(labelled(tmp_path, "fresh2", rows[:21], made_by))
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "fresh2")


def test_a_wrong_label_among_others_is_skipped(tmp_path: Path, teacher_folder: Path) -> None:
    rows = [json.dumps(row) for row in moods(ROWS)]
    rows[5] = json.dumps({"text": "sunny", "label": "brihgt"})
    task = {"labels": ["bright", "dark"]}
    with pytest.raises(RowError, match=r"moods\.jsonl:6: got label brihgt"):
        dump(labelled(tmp_path, "cache", rows, teacher_folder, task=task))
    dump(labelled(tmp_path, "cache", rows, teacher_folder, task=task, on_bad_row="skip", bad_rows_at_most=0.1), 3)
    assert [*read_skipped(Root(tmp_path / "cache"))] == [(1, 2)]
    assert read_manifest(Root(tmp_path / "cache")).totals.examples == ROWS - 1


def test_the_basis_of_a_factor_is_of_the_corpus_now(make: MakeConfig, tmp_path: Path) -> None:
    rows = lines(texts(90))
    record = {"kind": "factored", "rank": 8, "calibration_positions": 500}
    sections = {"record": record, "corpus": {"unit_rows": 15}}
    dump(make("cache", rows, **sections))
    calibration = read_manifest(Root(tmp_path / "cache")).header.basis.calibration  # type: ignore[union-attr]
    assert calibration is not None
    assert calibration.units < 6
    before = times(tmp_path / "cache")
    rows[-1] = json.dumps({"text": "another last row"})
    dump(make("cache", rows, **sections), 3)
    assert remade(before, tmp_path / "cache") == {5}
    dump(make("fresh", None, **sections))
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "fresh")
    first = rows[0]
    rows[0] = json.dumps({"text": "another first row"})
    with pytest.raises(CacheError, match=r"was begun with another basis: the first \d+ rows, on which its record was"):
        dump(make("cache", rows, **sections))
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "fresh")
    rows[0] = first
    dump(make("cache", rows, **sections))
    for name in (tmp_path / "cache" / "shards/000").iterdir():
        name.unlink()
    rows[0] = json.dumps({"text": "another first row"})
    dump(make("cache", rows, **sections))  # no shard is there to be lost
    dump(make("fresh2", None, **sections))
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "fresh2")


@pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
def test_killed_at_random_while_the_corpus_changes(make: MakeConfig, tmp_path: Path) -> None:
    rng, rows = random.Random(5), lines(texts(60))
    started = time.monotonic()
    assert os.waitstatus_to_exitcode(os.waitpid(fork_rank(make("calm", rows), World()), 0)[1]) == 0
    whole = time.monotonic() - started
    kills = 0
    while kills < 6:
        changed = [*rows]
        for row in rng.sample(range(60), 8):
            changed[row] = rng.choice([BAD["overlong"], json.dumps({"text": f"row {rng.random()}"}), BAD["not JSON"]])
        settings = {"on_bad_row": "skip", "bad_rows_at_most": 0.5}
        world_size = rng.choice([1, 3])
        config = make("rough", changed[: rng.randint(40, 60)], **settings)
        pids = [fork_rank(config, World(r, world_size)) for r in range(world_size)]
        time.sleep(rng.uniform(0.1, 0.6) * whole)
        victim = rng.choice(pids)
        os.kill(victim, signal.SIGKILL)
        statuses = [os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1]) for pid in pids]
        kills += statuses[pids.index(victim)] == -signal.SIGKILL
    assert os.waitstatus_to_exitcode(os.waitpid(fork_rank(make("rough", rows), World()), 0)[1]) == 0
    assert files_of(tmp_path / "rough") == files_of(tmp_path / "calm")
    assert verify(tmp_path / "rough") == []


def test_a_corpus_that_changes_while_it_is_dumped_ends_the_dump(
    make: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    rows = lines(texts())
    config = make("cache", rows)
    original = CacheBuilder.commit

    def and_edit(builder: CacheBuilder, index: int, *args: object, **settings: object) -> object:
        if index == 2:
            path = tmp_path / "corpus.jsonl"
            path.write_text(path.read_text().replace("cache", "cacao"))
        return original(builder, index, *args, **settings)  # type: ignore[arg-type]

    monkeypatch.setattr(CacheBuilder, "commit", and_edit)
    with pytest.raises(CorpusError, match=r"corpus\.jsonl changed while it was being used"):
        dump(config)
    monkeypatch.undo()
    assert not (tmp_path / "cache" / "cache.json").exists()
    dump(config)
    dump(make("fresh", None))
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "fresh")
