"""ENOSPC and EIO at each write of each command: one line, nothing lost, and the next run gives the same bytes."""

import errno
import json
import os
import resource
import shutil
import sys
from collections.abc import Callable
from pathlib import Path

import pytest
from faults.conftest import MADE_OF_OTHERS, Starter, dump_settings, making, train_settings_of, written
from faults.failing import Counts, Fault, forked, small_disk, sweep
from helpers import files_of

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
Faults = Callable[[int], list[Fault]]


def every(operations: int) -> list[Fault]:
    return [Fault(at, error) for error in (errno.ENOSPC, errno.EIO) for at in range(1, operations + 1)]


def some(count: int) -> Faults:
    """So many of each error, spread evenly."""

    def chosen(operations: int) -> list[Fault]:
        places = sorted({1 + (operations - 1) * i // max(count - 1, 1) for i in range(count)})
        return [Fault(at, error) for i, at in enumerate(places) for error in [(errno.ENOSPC, errno.EIO)[i % 2]]]

    return chosen


EXTENT = [pytest.param("short"), pytest.param("long", marks=pytest.mark.long)]


def told(command: str, counts: Counts) -> None:
    """For the table: pytest -s shows it."""
    print(
        f"\nfull or broken disk, {command}: {counts.runs} runs, {counts.failed} ended in one line, {counts.unharmed} "
        "unharmed; 0 bytes lost, 0 tracebacks",
        file=sys.__stdout__,
    )


@pytest.mark.parametrize("extent", EXTENT)
def test_dump(home: Path, start: Starter, extent: str) -> None:
    counts = sweep(
        start,
        lambda folder: ["dump-logits", written(folder, dump_settings(home, folder))],
        files_of(home / "cache"),
        every if extent == "long" else some(3),
    )
    told("dump-logits", counts)


@pytest.mark.parametrize("extent", EXTENT)
@pytest.mark.parametrize("command", MADE_OF_OTHERS)
def test_a_cache_of_others(sources: Path, start: Starter, command: str, extent: str) -> None:
    made = start()
    assert forked(making(command, sources, made), made).status == 0
    counts = sweep(
        start,
        lambda folder: making(command, sources, folder),
        files_of(made),
        every if extent == "long" else some(3),
    )
    told(command, counts)


@pytest.mark.parametrize("extent", EXTENT)
def test_repair(home: Path, tmp_path: Path, extent: str) -> None:
    starter = Starter(tmp_path / "runs")

    def damaged() -> Path:
        folder = starter()
        shutil.rmtree(folder)
        shutil.copytree(home / "cache", folder)
        for name in ("shards/000/000001.zarr.zip", "shards/000/000000.json", "header.json", "skipped.jsonl"):
            (folder / name).unlink()
        (folder / "tokenizer" / "tokenizer.json").write_text("{}")
        return folder

    counts = sweep(
        damaged,
        lambda folder: [
            "verify",
            folder,
            "--repair",
            "--config",
            written(folder, dump_settings(home, folder)),
        ],
        files_of(home / "cache"),
        every if extent == "long" else some(3),
    )
    told("verify --repair", counts)


def model_files(folder: Path) -> dict[str, bytes]:
    return {path.name: path.read_bytes() for path in sorted((folder / "model").iterdir()) if path.is_file()}


@pytest.mark.parametrize("extent", EXTENT)
def test_cut(home: Path, start: Starter, extent: str) -> None:
    made = start()
    assert forked(["cut", home / "teacher", "--layers", "0", "--out", made / "model"], made).status == 0
    counts = sweep(
        start,
        lambda folder: ["cut", home / "teacher", "--layers", "0", "--out", folder / "model"],
        model_files(made),
        every if extent == "long" else some(3),
        contents=model_files,
    )
    told("cut", counts)


def trained(folder: Path) -> dict[str, bytes]:
    """The weights of the student, and what it and the log say but for times."""
    student = {path.name: path.read_bytes() for path in (folder / "student").iterdir() if path.is_file()}
    timed = ("tok/s", "time", "at")
    lines = [json.loads(line) for line in (folder / "log.jsonl").read_text().splitlines()]
    told = [{key: value for key, value in line.items() if key not in timed} for line in lines]
    done = json.loads((folder / "done.json").read_text())
    return {**student, "log": json.dumps(told).encode(), "done": json.dumps(done["steps"]).encode()}


@pytest.mark.parametrize("extent", EXTENT)
def test_train(home: Path, start: Starter, extent: str) -> None:
    """Log, checkpoint, student, done.json."""

    def command(folder: Path) -> list[object]:
        return ["train", written(folder, train_settings_of(home, folder))]

    made = start()
    outcome = forked(command(made), made)
    assert outcome.status == 0, outcome.out
    counts = sweep(start, command, trained(made), every if extent == "long" else some(2), contents=trained)
    told("train", counts)


@pytest.mark.parametrize("kilobytes", [120])
def test_a_disk_that_is_really_full(home: Path, tmp_path: Path, kilobytes: int) -> None:
    """Dump, convert and cut on a small disk, and the same with room."""
    commands: dict[str, Callable[[Path], list[object]]] = {
        "dump": lambda folder: ["dump-logits", written(tmp_path / "dump", dump_settings(home, folder))],
        "arrow": lambda folder: making("convert", home, folder),
        "model": lambda folder: ["cut", home / "teacher", "--layers", "0", "--out", folder],
    }
    for name, command in commands.items():
        calm = tmp_path / "calm" / name
        calm.parent.mkdir(exist_ok=True)
        assert forked(command(calm), tmp_path / "calm").status == 0
        with small_disk(tmp_path / f"disk-{name}", kilobytes) as disk:
            outcome = forked(command(disk / name), disk)
            assert "Traceback" not in outcome.out, outcome.out
            if outcome.status:
                assert outcome.status in (1, 2), outcome.out
                assert len(outcome.lines) == 1, outcome.out
            _remount(disk, 20_000)
            healed = forked(command(disk / name), disk)
            assert healed.status == 0, outcome.out + healed.out
            assert files_of(disk / name) == files_of(calm)


def _remount(disk: Path, kilobytes: int) -> None:
    assert os.system(f"mount -o remount,size={kilobytes}k {disk}") == 0


def test_files_may_not_grow_so_large(home: Path, start: Starter) -> None:
    """RLIMIT_FSIZE, as a quota has it: EFBIG, once SIGXFSZ is ignored, as Python does."""
    folder = start()
    command = ["dump-logits", written(folder, dump_settings(home, folder))]
    outcome = forked(
        command, folder, prepare=lambda: resource.setrlimit(resource.RLIMIT_FSIZE, (20_000, resource.RLIM_INFINITY))
    )
    assert outcome.status == 1
    assert len(outcome.lines) == 1, outcome.out
    assert forked(command, folder).status == 0
    assert files_of(folder) == files_of(home / "cache")
