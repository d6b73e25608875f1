"""`kdcache dump-logits CONFIG --check`: bad rows found and counted without weights, and nothing written."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from helpers import Run, files_of, sentences

from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.launcher import World
from kdcache.store.cache import read_manifest
from kdcache.store.files import Root

Check = Callable[..., tuple[int, str, str]]
LONG = json.dumps({"text": " ".join(sentences(9))})


@pytest.fixture
def rows(tmp_path: Path) -> list[str]:
    return [json.dumps({"text": " ".join(text.split()[:12])}) for text in sentences(60)]


@pytest.fixture
def check(
    make_config: Callable[..., DumpConfig],
    teacher_folder: Path,
    tmp_path: Path,
    run: Run,
) -> Check:
    """check(rows, "key=value" …) -> (exit status, standard output, standard error), by a teacher without weights."""
    bare = tmp_path / "bare"
    shutil.copytree(teacher_folder, bare, ignore=shutil.ignore_patterns("*.safetensors"))

    def check_rows(rows: list[str], *overrides: str) -> tuple[int, str, str]:
        (tmp_path / "corpus.jsonl").write_text("".join(f"{row}\n" for row in rows))
        config = make_config(tmp_path / "cache", teacher={"path": str(bare)}, task={"packing": "documents"})
        (tmp_path / "dump.yaml").write_text(yaml.safe_dump(config.model_dump(mode="json", exclude_unset=True)))
        options = [part for override in overrides for part in ("-o", override)]
        before = files_of(tmp_path / "cache")
        said = run("dump-logits", tmp_path / "dump.yaml", "--check", *options)
        assert files_of(tmp_path / "cache") == before
        assert not (tmp_path / "cache" / ".kdcache").exists()
        return said

    return check_rows


def test_a_sound_corpus_is_counted_as_it_will_be_dumped(
    check: Check, make_config: Callable[..., DumpConfig], rows: list[str], tmp_path: Path
) -> None:
    status, out, err = check(rows)
    assert status == 0, err
    run_dump(make_config(tmp_path / "dumped", task={"packing": "documents"}), World())
    totals = read_manifest(Root(tmp_path / "dumped")).totals
    assert f"rows       60 in {totals.shards} units of 10" in out
    for name in ("examples", "tokens", "positions"):
        assert f"{name:<10} {getattr(totals, name):,}\n" in out
    assert "bad rows   none" in out
    assert "check: 6/6 units" in err
    assert not (tmp_path / "cache").exists()


def test_bad_rows_are_all_reported(check: Check, rows: list[str]) -> None:
    bad = {4: LONG, 5: '{"text": ', 17: LONG, 33: '{"text": 5}', 59: '{"title": ""}'}
    for row, line in bad.items():
        rows[row] = line
    status, out, err = check(rows)
    assert status == 1
    for row, words in ((4, " has "), (5, " is not JSON"), (17, " has "), (33, ": text is a number"), (59, " has no")):
        assert f"corpus.jsonl:{row + 1}{words}" in err
    assert "bad rows   5 (8.33%)" in out
    assert "would help task.overlong: truncate or drop, for 2 of them" in out
    assert "would help on_bad_row: skip with bad_rows_at_most: 0.084, for all of them" in out
    assert err.splitlines()[-1].startswith("kdcache: got 5 bad rows of 60, expected none")
    assert check(rows, "on_bad_row=skip")[0] == 1
    assert "expected at most 0:" in check(rows, "on_bad_row=skip")[2]
    status, out, _ = check(rows, "on_bad_row=skip", "bad_rows_at_most=0.084")
    assert status == 0
    assert "on_bad_row: skip" not in out
    status, out, _ = check(rows, "task.overlong=drop")
    assert status == 1
    assert "notes      2 dropped" in out
    assert "bad rows   3 (5.00%)" in out


def test_many_bad_rows_are_cut_to_twenty(check: Check, rows: list[str]) -> None:
    status, out, err = check(["{"] * 30 + rows)
    assert status == 1
    assert "the first 20 of 30 bad rows are above" in out
    assert sum(" is not JSON" in line for line in err.splitlines()) == 21


def test_what_is_wrong_with_the_config_is_said_as_a_dump_says_it(check: Check, rows: list[str]) -> None:
    status, _, err = check(rows, "task.sequence_length=129")
    assert status == 2
    assert "got task.sequence_length 129, expected at most 128" in err
    status, _, err = check(rows, "corpus.text_field=words")
    assert status == 1
    assert "corpus.jsonl:1 has no field words, it has text" in err
