"""Power cuts after every operation: what was not brought to the disk is gone, and the next run gives the same bytes."""

import json
import os
import shutil
import sys
from pathlib import Path

import pytest
from faults.conftest import MADE_OF_OTHERS, Starter, dump_settings, making, train_settings_of, written
from faults.failing import forked
from faults.power import Recorder
from helpers import files_of

pytestmark = pytest.mark.filterwarnings("ignore:This process .* is multi-threaded")
EXTENT = [pytest.param(5, id="short"), pytest.param(1000, id="long", marks=pytest.mark.long)]


def recorded(arguments: list[object], folder: Path) -> list[dict[str, bytes]]:
    """What was on the disk after each operation of a command."""
    states = folder.parent / f"{folder.name}.states"

    def prepare() -> None:
        recorder = Recorder(folder)
        recorder.install()
        real_exit = os._exit

        def leave(status: int) -> None:
            told = [{name: data.hex() for name, data in state.items()} for state in recorder.states]
            states.write_text(json.dumps(told))
            real_exit(status)

        os._exit = leave  # type: ignore[assignment]

    outcome = forked(arguments, folder, prepare=prepare)
    assert outcome.status == 0, outcome.out
    return [{name: bytes.fromhex(data) for name, data in state.items()} for state in json.loads(states.read_text())]


def spread(states: list[dict[str, bytes]], count: int) -> list[dict[str, bytes]]:
    """The last, and others evenly."""
    places = sorted({len(states) - 1 - (len(states) - 1) * i // max(count - 1, 1) for i in range(count)})
    return [states[place] for place in places]


@pytest.mark.parametrize("count", EXTENT)
@pytest.mark.parametrize("command", ["dump-logits", *MADE_OF_OTHERS])
def test_a_cache(sources: Path, start: Starter, command: str, count: int) -> None:
    def arguments(folder: Path) -> list[object]:
        if command in MADE_OF_OTHERS:
            return making(command, sources, folder)
        return ["dump-logits", written(folder, dump_settings(sources, folder))]

    folder = start()
    states = recorded(arguments(folder), folder)
    calm = files_of(folder)
    assert states[-1].keys() >= calm.keys()
    assert {name: states[-1][name] for name in calm} == calm, "nothing of a finished cache was left in memory"
    for state in spread(states, count):
        if "cache.json" in state:
            assert {name: state.get(name) for name in calm} == calm, "cache.json goes last"
        Recorder.restore(state, folder)
        healed = forked(arguments(folder), folder)
        assert healed.status == 0, healed.out
        assert files_of(folder) == calm


def test_a_cut_model(home: Path, start: Starter) -> None:
    folder = start()
    states = recorded(["cut", home / "teacher", "--layers", "0", "--out", folder / "model"], folder)
    for state in states:
        if "model/config.json" in state:
            assert state.get("model/model.safetensors"), "the weights are on the disk before the config"
    assert states[-1]["model/model.safetensors"] == (folder / "model" / "model.safetensors").read_bytes()


def test_a_students_files_come_before_the_mark_of_a_finished_run(home: Path, start: Starter) -> None:
    folder = start()
    states = recorded(["train", written(folder, train_settings_of(home, folder))], folder)
    finished = [state for state in states if "done.json" in state]
    assert finished
    for state in finished:
        assert json.loads(state["done.json"])
        for path in (folder / "student").rglob("*"):
            if path.is_file():
                name = str(path.relative_to(folder))
                assert state.get(name) == path.read_bytes(), name


@pytest.mark.parametrize("count", EXTENT)
def test_a_repair(home: Path, start: Starter, count: int) -> None:
    """Whatever is left of it, the next one makes the cache what it was; what was whole stays."""
    calm = files_of(home / "cache")

    def arguments(folder: Path) -> list[object]:
        return ["verify", folder, "--repair", "--config", written(folder, dump_settings(home, folder))]

    folder = start()
    shutil.rmtree(folder)
    shutil.copytree(home / "cache", folder)
    shards = sorted(path for path in (folder / "shards").rglob("*") if path.is_file())
    for path in (shards[0], shards[-1], folder / "header.json", folder / "skipped.jsonl"):
        path.unlink()
    (folder / "tokenizer" / "tokenizer.json").write_text("{}")
    left = files_of(folder)
    states = recorded(arguments(folder), folder)
    assert files_of(folder) == calm
    assert {name: states[-1].get(name) for name in calm} == calm, "nothing of a repair was left in memory"
    for state in spread(states, count):
        neither = {name: state.get(name) for name in calm if state.get(name) not in (left.get(name), calm[name])}
        assert neither == {}, "a file is old or whole"
        Recorder.restore(state, folder)
        healed = forked(arguments(folder), folder)
        assert healed.status == 0, healed.out
        assert files_of(folder) == calm
    print(f"\npower cuts of a repair: {len(spread(states, count))}", file=sys.__stdout__)


@pytest.mark.parametrize("count", EXTENT)
@pytest.mark.parametrize("command", ["cut", "export"])
def test_a_model(home: Path, start: Starter, command: str, count: int) -> None:
    """A folder of a model is whole or is made anew by the same command; no run loses a file."""
    folder = start()
    run = folder.parent / "run"
    if command == "export" and not run.exists():
        assert forked(["train", written(run, train_settings_of(home, run))], run).status == 0

    def arguments(folder: Path) -> list[object]:
        if command == "cut":
            return ["cut", home / "teacher", "--layers", "0", "--out", folder / "model"]
        return ["export", run, "--step", "3", "--out", folder / "model"]

    states = recorded(arguments(folder), folder)
    calm = files_of(folder / "model")
    for state in spread(states, count):
        Recorder.restore(state, folder)
        if "model/config.json" in state:
            assert {name: state.get(f"model/{name}") for name in calm} == calm, "config.json goes last"
        healed = forked(arguments(folder), folder)
        assert healed.status == 0, healed.out
        assert files_of(folder / "model") == calm
    print(f"\npower cuts of {command}: {len(spread(states, count))}", file=sys.__stdout__)
