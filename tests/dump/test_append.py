"""dump-logits --append: more rows for a finished cache, which stays what it was until they are all there."""

import json
import os
import signal
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import Run, files_of, fork_rank, sentences

from kdcache import open_cache
from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.errors import CacheError
from kdcache.launcher import World
from kdcache.report.teacher_check import check_teacher
from kdcache.store.builder import CacheBuilder
from kdcache.store.verify import verify

MakeConfig = Callable[..., DumpConfig]
DOCUMENTS = {"packing": "documents", "sequence_length": 64}


def lines(count: int, seed: int) -> list[str]:
    return [json.dumps({"text": " ".join(text.split()[:12])}) for text in sentences(count, seed)]


@pytest.fixture
def make(make_config: MakeConfig, tmp_path: Path) -> MakeConfig:
    """make(cache, rows of the corpus, **sections): the corpus is written anew, in units of 4 rows."""

    def config(cache: str, rows: list[str], **sections: Any) -> DumpConfig:
        (tmp_path / "corpus.jsonl").write_text("".join(f"{row}\n" for row in rows))
        sections["corpus"] = {"unit_rows": 4, **sections.get("corpus", {})}
        return make_config(tmp_path / cache, **{"task": DOCUMENTS, **sections})

    return config


def stamps(cache: Path, units: int) -> dict[str, int]:
    paths = [path for path in (cache / "shards/000").iterdir() if int(path.name[:6]) < units]
    return {path.name: path.stat().st_mtime_ns for path in paths}


def test_where_units_end_with_the_corpus_it_is_the_dump_of_all(make: MakeConfig, tmp_path: Path) -> None:
    rows = [*lines(8, 1), *lines(7, 2)]
    run_dump(make("cache", rows[:8]), World())
    before = stamps(tmp_path / "cache", 2)
    for rank in (1, 0):
        run_dump(make("cache", rows), World(rank, 2), append=True)
    assert stamps(tmp_path / "cache", 2) == before
    run_dump(make("fresh", rows), World())
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "fresh")


def test_old_shards_stay_whatever_their_rows_and_new_ones_begin_a_unit(
    make: MakeConfig, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    rows = [*lines(6, 1), *lines(5, 2), *lines(3, 3)]
    run_dump(make("cache", rows[:6]), World())
    cache = tmp_path / "cache"
    first = open_cache(cache)
    before, old = stamps(cache, 2), files_of(cache)
    run_dump(make("cache", rows[:11]), World(), append=True)
    second = open_cache(cache)
    assert (second.shard_examples.tolist(), stamps(cache, 2)) == ([4, 2, 4, 1], before)
    assert second.digest != first.digest
    assert first.read(0, 6).arrays["tokens"].tolist() == second.read(0, 6).arrays["tokens"].tolist()
    run_dump(make("cache", rows), World(), append=True)
    assert open_cache(cache).shard_examples.tolist() == [4, 2, 4, 1, 3]
    assert {name: files_of(cache)[name] for name in old if name.startswith("shards/")} == {
        name: data for name, data in old.items() if name.startswith("shards/")
    }
    pin = open_cache(cache).manifest.corpus
    assert pin is not None
    assert (pin.rows, pin.grown_at) == (14, (6, 11))
    assert verify(cache) == []
    for append in (False, True):
        capfd.readouterr()
        run_dump(make("cache", rows), World(), append=append)
        assert "is finished already: 5 shards" in capfd.readouterr().err
    (cache / "shards/000/000003.json").unlink()
    made = files_of(cache)
    run_dump(make("cache", rows), World())
    assert {**made, "shards/000/000003.json": files_of(cache)["shards/000/000003.json"]} == files_of(cache)
    assert check_teacher(str(cache), None, sample=14)["stored"]["differing"] == 0


def test_the_finished_cache_is_readable_until_the_new_one_is_whole(
    make: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """Killed before it finishes, it is still the old one; gone on with, by another number of ranks, the same bytes."""
    rows = [*lines(6, 1), *lines(40, 2)]
    run_dump(make("cache", rows[:6]), World())
    cache = tmp_path / "cache"
    digest, config = open_cache(cache).digest, make("cache", rows)

    with monkeypatch.context() as patched:
        patched.setattr(CacheBuilder, "finalize", lambda *_: time.sleep(600))
        process = fork_rank(config, World(), append=True)
    while not (cache / "shards/000/000004.json").exists():
        assert open_cache(cache).digest == digest
        time.sleep(0.01)
    os.kill(process, signal.SIGKILL)
    os.waitpid(process, 0)
    assert open_cache(cache).digest == digest
    assert len(open_cache(cache).read(0, 6)) == 6
    for rank in (2, 0, 1):
        run_dump(config, World(rank, 3), append=True)
    run_dump(make("whole", rows[:6]), World())
    run_dump(make("whole", rows), World(), append=True)
    assert files_of(cache) == files_of(tmp_path / "whole")


def test_what_cannot_be_appended_is_refused_and_nothing_changes(make: MakeConfig, tmp_path: Path, run: Run) -> None:
    rows = [*lines(6, 1), *lines(5, 2)]
    with pytest.raises(CacheError, match=r"holds no finished dump, expected one for --append: run .* without it"):
        run_dump(make("cache", rows), World(), append=True)
    run_dump(make("cache", rows[:6]), World())
    before = files_of(tmp_path / "cache")
    cannot = "cannot stay: their rows of the corpus changed"
    refused = {
        rf"1 shard of 2 of .* {cannot}; expected for --append": [rows[7], *rows[1:]],
        rf"2 shards of 2 of .* {cannot}": [*rows[6:], *rows[:6]],
        r"got a corpus of 5 rows, expected the 6 that .* was made of, and more rows after them": rows[:5],
    }
    for words, changed in refused.items():
        with pytest.raises(CacheError, match=words):
            run_dump(make("cache", changed), World(), append=True)
    with pytest.raises(CacheError, match="was begun with seed 0, got 4"):
        run_dump(make("cache", rows, seed=4), World(), append=True)
    assert files_of(tmp_path / "cache") == before
    config = make("cache", rows[:6])
    (tmp_path / "dump.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json")))
    for other in ("--check", "--ray"):
        status, _, err = run("dump-logits", tmp_path / "dump.yaml", "--append", other)
        assert (status, f"got --append and {other}, expected one of them" in err) == (2, True)
