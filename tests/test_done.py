"""Exit status 0 means that the work is done: for each command, what is left undone, and how that is said."""

import json
import shutil
from collections.abc import Callable
from pathlib import Path
from typing import Any

import pytest
import torch
import yaml
from helpers import Run, make_model, make_tokenizer, sentences, write_jsonl
from imports import capturing
from train.tiny import train_settings, write_cache

from kdcache.cli import cli
from kdcache.owned.folder import Owner, claim
from kdcache.owned.folder import mark as mark_folder

Given = Callable[[Path], list[object]]


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """Teacher, students, corpus, and caches: a sound one, and one without a supervised position."""
    folder = tmp_path_factory.mktemp("done")
    write_cache(folder / "sound", examples=24)
    write_cache(folder / "empty", examples=4, unsupervised=1.0)
    make_model(folder / "student", vocab_size=300)
    make_tokenizer(folder / "teacher")
    make_model(folder / "teacher", vocab_size=330)
    write_jsonl(folder / "corpus.jsonl", sentences(20))
    return folder


@pytest.fixture
def room(made: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Path:
    shutil.copytree(made, tmp_path / "room")
    monkeypatch.chdir(tmp_path / "room")
    return tmp_path / "room"


def unfinished(room: Path) -> str:
    """A cache whose last shard was never made."""
    folder = shutil.copytree(room / "sound", room / "unfinished")
    for path in (folder / "cache.json", folder / ".kdcache" / "finished.json", *folder.glob("shards/000/000002.*")):
        path.unlink()
    return str(folder)


def torn(room: Path) -> str:
    """A finished cache that has lost its first shard."""
    folder = shutil.copytree(room / "sound", room / "torn")
    (folder / "shards/000/000000.zarr.zip").unlink()
    return str(folder)


def cut_short(room: Path) -> str:
    """A capture of another tool, whose last line ends in its middle."""
    logits = capturing.table()
    path = capturing.write_jsonl(room / "captured.jsonl", capturing.vllm_rows(logits, capturing.texts(logits, 4), 3))
    path.write_text(path.read_text()[:-40])
    return str(path)


def overflowing(room: Path) -> str:
    """A student of finite weights whose logits are none."""
    from transformers import AutoModelForCausalLM

    model = AutoModelForCausalLM.from_pretrained(room / "student")
    with torch.no_grad():
        model.model.norm.weight.fill_(3e38)
        model.lm_head.weight.fill_(3e38)
    model.save_pretrained(room / "overflowing")
    return str(room / "overflowing")


def dump(room: Path, **changes: Any) -> str:
    settings = {
        "output": str(room / "dumped"),
        "corpus": {"paths": str(room / "corpus.jsonl"), "format": "jsonl", "unit_rows": 10},
        "teacher": {"path": str(room / "teacher"), "dtype": "float32"},
        "task": {"sequence_length": 64},
    }
    (room / "dump.yaml").write_text(yaml.safe_dump(settings | changes))
    return str(room / "dump.yaml")


def with_bad_rows(room: Path, count: int) -> Path:
    with (room / "corpus.jsonl").open("a") as file:
        file.write('{"no": "text"}\n' * count)
    return room


def without_text(room: Path) -> Path:
    write_jsonl(room / "corpus.jsonl", [""] * 4)
    return room


def train(room: Path, cache: str, **changes: Any) -> str:
    (room / "train.yaml").write_text(yaml.safe_dump(train_settings(Path(cache), room / "run", **changes)))
    return str(room / "train.yaml")


def unsaved(room: Path) -> str:
    """A run that has no checkpoint."""
    claim(room / "run", "run")
    mark_folder(room / "run", Owner("run", config=train_settings(room / "sound", room / "run")), replace=True)
    return str(room / "run")


# command, what is left, its arguments, exit status, what is said
LEFT: list[tuple[str, str, Given, int, str]] = [
    ("dump-logits", "shards of the other rank", lambda r: [dump(r), "--rank", 0, "--world-size", 2], 0,
     "rank 0 of 2 is done; the other ranks still make 1 of 2 shards"),
    ("dump-logits", "rows that are skipped",
     lambda r: [dump(with_bad_rows(r, 1), on_bad_row="skip", bad_rows_at_most=0.5)], 0, "1 skipped"),
    ("dump-logits", "too many bad rows", lambda r: [dump(with_bad_rows(r, 9), on_bad_row="skip")], 1, "bad rows"),
    ("dump-logits", "a corpus without a position", lambda r: [dump(without_text(r))], 1, "no supervised position"),
    ("dump-logits", "bad rows found by --check", lambda r: [dump(with_bad_rows(r, 1)), "--check"], 1, "bad row"),
    ("train", "a cache without a position", lambda r: [train(r, "empty")], 1, "no supervised position"),
    ("train", "an unfinished cache", lambda r: [train(r, unfinished(r))], 1, "is not finished"),
    ("train", "a held-out cache without a position", lambda r: [train(r, "sound", eval={"cache": "empty"})], 1,
     "no supervised position"),
    ("export", "no checkpoint", lambda r: [unsaved(r), "--out", "now"], 1, "has no checkpoint yet"),
    ("export", "no run", lambda r: ["sound", "--out", "now"], 2, "holds no training run"),
    ("eval", "a cache without a position", lambda r: ["student", "--cache", "empty"], 1, "no supervised position"),
    ("eval", "an unfinished cache", lambda r: ["student", "--cache", unfinished(r)], 1, "is not finished"),
    ("eval", "a cache that lost a shard", lambda r: ["student", "--cache", torn(r)], 1, "is missing"),
    ("eval", "the second of two students", lambda r: ["student", "nobody", "--cache", "sound"], 2,
     "got student nobody"),
    ("eval", "figures that are no numbers", lambda r: [overflowing(r), "--cache", "sound"], 1, "is not a number"),
    ("eval", "classes of a language model", lambda r: ["student", "--cache", "sound", "--per-class"], 2,
     "expected one of a classification"),
    ("inspect", "an unfinished cache", lambda r: [unfinished(r)], 1, "is not finished"),
    ("inspect", "the records of a cache without any", lambda r: ["empty", "--temperature", 1], 1,
     "no supervised position"),
    ("inspect", "the records of a lost shard", lambda r: [torn(r), "--temperature", 1], 1, "is missing"),
    ("verify", "an unfinished cache", lambda r: [unfinished(r)], 1, "is not finished"),
    ("verify", "a cache that lost a shard", lambda r: [torn(r)], 1, "1 file damaged"),
    ("verify", "a shard that nothing can make again", lambda r: [torn(r), "--repair"], 1, "1 file still damaged"),
    ("verify", "figures of a teacher that does not run", lambda r: ["sound", "--json"], 2,
     "expected it with --teacher"),
    ("verify", "a repair that asks a teacher for examples", lambda r: ["sound", "--repair", "--sample", 4], 2,
     "expected it with --teacher"),
    ("verify", "jobs that only reading every shard has", lambda r: ["sound", "--repair", "--jobs", 2], 2,
     "expected it alone"),
    ("verify", "a repair and a teacher", lambda r: ["sound", "--repair", "--teacher"], 2, "expected one of them"),
    ("convert", "an unfinished cache", lambda r: [unfinished(r), "to", "--to", "arrow"], 1, "is not finished"),
    ("convert", "a cache that lost a shard", lambda r: [torn(r), "to", "--to", "arrow"], 1, "is missing"),
    ("merge", "an unfinished cache", lambda r: ["sound", unfinished(r), "--out", "to"], 1, "is not finished"),
    ("merge", "a cache that lost a shard", lambda r: ["empty", torn(r), "--out", "to"], 1, "is missing"),
    ("filter", "an unfinished cache", lambda r: [unfinished(r), "--out", "to", "--where", "length > 1"], 1,
     "is not finished"),
    ("filter", "a cache that lost a shard", lambda r: [torn(r), "--out", "to", "--where", "length > 1"], 1,
     "is missing"),
    ("filter", "nothing", lambda r: ["sound", "--out", "to", "--where", "length > 10000"], 1, "is true of no example"),
    ("ensemble", "an unfinished cache", lambda r: ["sound", unfinished(r), "--out", "to"], 1, "is not finished"),
    ("ensemble", "records that have no mean", lambda r: ["sound", "sound", "--out", "to"], 1, "sampled"),
    ("import", "a file that was cut short", lambda r: ["jsonl", cut_short(r), "--tokenizer", "teacher", "--out", "to"],
     1, "captured.jsonl:4 is not JSON"),
    ("push", "an unfinished cache", lambda r: [unfinished(r), "to"], 1, "is not finished"),
    ("push", "a cache that lost a shard", lambda r: [torn(r), "to"], 1, "is missing"),
    ("fetch", "an unfinished cache", lambda r: [unfinished(r), "--out", "to"], 1, "is not finished"),
    ("fetch", "a cache that lost a shard", lambda r: [torn(r), "--out", "to"], 1, "is missing"),
    ("cut", "a layer that is not there", lambda r: ["teacher", "--layers", "0,9", "--out", "to"], 2, "layer"),
    ("plan", "no figures without --simulate", lambda r: [], 2, "expected --simulate"),
    ("plan", "figures that are no numbers", lambda r: ["--simulate", "--tokens", "nan"], 2, "got --tokens nan"),
]  # fmt: skip


def test_every_command_has_a_row() -> None:
    assert {command for command, *_ in LEFT} == {*cli.commands}


@pytest.mark.parametrize(("command", "left", "given", "status", "words"), LEFT, ids=[f"{a}, {b}" for a, b, *_ in LEFT])
def test_what_is_left_undone_is_an_error_or_is_said(
    run: Run, room: Path, command: str, left: str, given: Given, status: int, words: str
) -> None:
    ended, out, err = run(command, *given(room))
    assert (ended, words in out + err) == (status, True), out + err
    if status:
        assert [line.startswith("kdcache: ") for line in err.splitlines()][-1]
    for name in ("to", "now"):  # nothing that looks finished
        assert not any((room / name / done).exists() for done in ("cache.json", "config.json"))


def test_figures_are_numbers_also_in_json(run: Run, room: Path) -> None:
    for given in (["eval", "student", "--cache", "sound"], ["inspect", "sound", "--temperature", "1"]):
        status, out, _ = run(*given, "--json")
        assert status == 0
        json.loads(out, parse_constant=lambda name: pytest.fail(f"got {name}, which is no JSON"))
