"""Dumps on a real Ray of this machine: workers and a driver that are killed, and what is refused.

Workers are processes that import torch, a few seconds each, so each test tells a whole story.
"""

import json
import os
import shutil
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import Run, files_of, sentences, write_jsonl

from kdcache.dump.run import run_dump
from kdcache.dump.schedulers.cluster import Node, placed
from kdcache.dump.settings import DumpConfig
from kdcache.errors import ConfigError
from kdcache.launcher import World
from kdcache.owned.lock import hold

MakeConfig = Callable[..., DumpConfig]

CLUSTER = """
import logging, sys, ray
ray.init(address="local", num_cpus=2, num_gpus=0, object_store_memory=100 * 2**20, include_dashboard=False,
         log_to_driver=False, logging_level=logging.ERROR)
print("@" + ray.get_runtime_context().gcs_address, flush=True)
sys.stdin.read()
"""


@pytest.fixture(scope="module", autouse=True)
def no_tokens() -> Iterator[None]:
    """Else each driver would have to be given the cluster's."""
    with pytest.MonkeyPatch.context() as patch:
        patch.setenv("RAY_AUTH_MODE", "disabled")
        patch.setenv("RAY_USAGE_STATS_ENABLED", "0")
        yield


@pytest.fixture(scope="module")
def address(no_tokens: None) -> Iterator[str]:
    """Of a cluster of two CPUs, which lives in a process of its own."""
    paths = os.pathsep.join(path for path in sys.path if path)
    process = subprocess.Popen(
        [sys.executable, "-c", CLUSTER],
        stdin=subprocess.PIPE,
        stdout=subprocess.PIPE,
        stderr=subprocess.DEVNULL,
        text=True,
        env=os.environ | {"PYTHONPATH": paths},
    )
    assert process.stdout is not None
    yield next(line[1:].strip() for line in process.stdout if line.startswith("@"))
    process.communicate()


@pytest.fixture
def written(make_config: MakeConfig, tmp_path: Path) -> Callable[..., Path]:
    """written(name, **sections): the settings file of a dump by the gated engine, into a folder of this name."""

    def write(name: str, **sections: Any) -> Path:
        path = tmp_path / f"{name}.yaml"
        config = make_config(tmp_path / name, **sections).model_dump(mode="json")
        config["module"] = "dump.schedulers.gated"
        config["teacher"]["engine"] = {"kind": "gated"}
        path.write_text(yaml.safe_dump(config))
        return path

    return write


def test_killed_workers_and_a_killed_driver_give_the_bytes_of_an_unlaunched_dump(
    written: Callable[..., Path], run: Run, address: str, tmp_path: Path
) -> None:
    config, gate = written("ray"), tmp_path / "gate"
    driver = started(config, gate, address, workers=2)
    first, second = sorted(at_gate(gate, 2))
    os.kill(first, signal.SIGKILL)
    again = (at_gate(gate, 3) - {first, second}).pop()
    os.kill(again, signal.SIGKILL)
    last = (at_gate(gate, 4) - {first, second, again}).pop()
    driver.kill()
    said = driver.communicate()[1]
    assert said.count("died; its units go to others, and Ray starts it again") == 2, said
    for process in (second, last):
        wait_for(lambda process=process: not alive(process))
    assert not [*(tmp_path / "ray").rglob("*.zarr.zip")]
    shutil.rmtree(gate)

    status, shown, said = run("dump-logits", config, "--ray", "--ray-address", address, "--num-workers", 2)
    assert status == 0, said
    assert "12 shards" in shown
    assert f"Ray at {address}: 2 workers, 1 CPU each" in said
    assert "by worker 0" in said
    assert run("dump-logits", written("alone"))[0] == 0
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "alone")
    for place in said.splitlines():
        if place.startswith("worker ") and " is process " in place:
            assert not alive(int(place.split(" is process ")[1].split()[0]))


def test_an_interrupted_driver_ends_its_workers(written: Callable[..., Path], address: str, tmp_path: Path) -> None:
    driver = started(written("ray"), tmp_path / "gate", address, workers=1)
    (worker,) = at_gate(tmp_path / "gate", 1)
    driver.send_signal(signal.SIGINT)
    said = driver.communicate(timeout=60)[1]
    assert driver.returncode == 130
    assert said.splitlines()[-1] == "kdcache: interrupted; run the same command again to go on"
    wait_for(lambda: not alive(worker))


def test_a_unit_that_kills_its_worker_is_named(
    written: Callable[..., Path], run: Run, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    texts = sentences(120)
    texts[35] = "<|im_start|>" + texts[35]
    write_jsonl(tmp_path / "corpus.jsonl", texts)
    monkeypatch.setenv("KDCACHE_KILLER", "1")
    config = written("ray")
    status, _, said = run("dump-logits", config, "--ray", "--ray-address", address, "--num-workers", 1)
    assert status == 1
    assert "kdcache: unit 3 killed its worker 3 times" in said.splitlines()[-1]
    assert len([*(tmp_path / "ray/shards/000").glob("*.json")]) >= 3
    monkeypatch.delenv("KDCACHE_KILLER")
    assert run("dump-logits", config)[0] == 0
    assert run("dump-logits", written("alone"))[0] == 0
    assert files_of(tmp_path / "ray") == files_of(tmp_path / "alone")


def test_what_a_worker_meets_is_told_as_a_plain_dump_tells_it(
    written: Callable[..., Path], run: Run, address: str, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    monkeypatch.chdir(tmp_path)
    rows = [json.dumps({"text": text}) for text in sentences(120)]
    rows[70] = json.dumps({"text": None})
    (tmp_path / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    config = written("ray")
    settings = yaml.safe_load(config.read_text())
    settings["corpus"]["paths"], settings["output"] = "corpus.jsonl", "ray"
    config.write_text(yaml.safe_dump(settings))
    status, _, said = run("dump-logits", config, "--ray", "--ray-address", address, "--num-workers", 1)
    settings["output"] = "alone"
    (tmp_path / "alone.yaml").write_text(yaml.safe_dump(settings))
    plain, _, line = run("dump-logits", tmp_path / "alone.yaml")
    assert status == plain == 1
    assert said.splitlines()[-1] == line.splitlines()[-1]
    assert "corpus.jsonl:71" in line
    assert len([*Path("ray/shards/000").glob("*.json")]) >= 5


def test_another_dump_of_the_folder_is_refused(
    written: Callable[..., Path], run: Run, address: str, tmp_path: Path, make_config: MakeConfig
) -> None:
    run_dump(make_config(tmp_path / "ray", corpus={"unit_rows": 60}), World())
    (tmp_path / "ray/cache.json").unlink()
    with hold(tmp_path / "ray", "dump-logits", identity="ab" * 16):
        status, _, said = run("dump-logits", written("ray"), "--ray", "--ray-address", address, "--num-workers", 1)
    assert status == 1
    assert "kdcache: " in said.splitlines()[-1]
    assert f"{tmp_path / 'ray'} is being written by" in said or "was begun with" in said


def test_refusals(
    written: Callable[..., Path], run: Run, address: str, monkeypatch: pytest.MonkeyPatch, tmp_path: Path
) -> None:
    config = written("ray")
    for words, told in {
        ("--num-workers", 2): "got --num-workers without --ray, expected both",
        ("--ray", "--rank", 0, "--world-size", 2): "got --ray in rank 0 of 2, expected one command alone",
        ("--ray", "--ray-address", "ray://there:10001"): "expected the head of a cluster, such as 10.0.0.1:6379",
        ("--ray", "--ray-address", "127.0.0.1:1"): "where nobody answers",
        ("--ray", "--ray-address", address, "--gpus-per-worker", 1): "got 1 GPU for each worker and a Ray cluster "
        "whose machines have none",
        ("--ray", "--ray-address", address, "-o", "compute.device=cuda"): "set compute.device: cpu",
    }.items():
        start = time.monotonic()
        status, _, said = run("dump-logits", config, *words)
        assert status == 2, said
        assert told in said.splitlines()[-1]
        assert time.monotonic() - start < 30
    monkeypatch.setitem(sys.modules, "ray", None)
    status, _, said = run("dump-logits", config, "--ray")
    assert (status, said.splitlines()[-1]) == (
        2,
        'kdcache: got --ray, and the package ray is not installed; expected it: pip install "kdcache[ray]"',
    )
    assert not (tmp_path / "ray").exists()


def test_room_for_workers(make_config: MakeConfig, tmp_path: Path) -> None:
    def place(nodes: list[Node], gpus: float | None = None, **sections: Any) -> tuple[float, float, int]:
        found = placed(make_config(tmp_path / "c", **sections), nodes, None, gpus)
        return found.cpus, found.gpus, found.workers

    eight, bare = Node(64, 8), Node(16, 0)
    assert place([eight, eight, bare]) == (1, 1, 16)
    assert place([bare, Node(4, 0)], compute={"threads": 4}) == (4, 0, 5)
    assert place([bare, Node(4, 0)], compute={"threads": 0}) == (16, 0, 1)
    assert place([eight], 0.5) == (1, 0.5, 16)
    assert place([eight], compute={"device": "cpu", "threads": 8}) == (8, 0, 8)
    two = {"placement": "device_map", "gpus_per_replica": 2}
    assert place([eight, bare], teacher=two) == (1, 2, 4)
    for nodes, gpus, told in (
        ([Node(8, 1)], None, "got 2 GPUs for each worker and a Ray cluster whose machines have at most 1"),
        ([eight], 1, "got --gpus-per-worker 1, expected 2 GPUs, which one copy of the teacher takes"),
        ([eight], 9, "whose machines have at most 8"),
        ([Node(0, 8)], None, "without a CPU"),
    ):
        with pytest.raises(ConfigError, match=told):
            place(nodes, gpus, teacher=two)
    with pytest.raises(ConfigError, match="placement tensor_parallel, where 2 ranks hold one copy of the teacher"):
        place([eight], teacher={"placement": "tensor_parallel", "ranks_per_replica": 2})


def started(config: Path, gate: Path, address: str, *, workers: int) -> subprocess.Popen[str]:
    """A driver in a process of its own, whose workers wait at a gate."""
    gate.mkdir()
    command = [sys.executable, "-m", "kdcache", "dump-logits", config, "--ray", "--ray-address", address]
    return subprocess.Popen(
        [*map(str, command), "--num-workers", str(workers)],
        stderr=subprocess.PIPE,
        text=True,
        env=os.environ | {"KDCACHE_GATE": str(gate), "PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
    )


def at_gate(gate: Path, count: int) -> set[int]:
    """The processes that have come to the gate, once they are so many."""
    wait_for(lambda: len([*gate.iterdir()]) >= count)
    return {int(path.name) for path in gate.iterdir()}


def wait_for(what: Callable[[], bool]) -> None:
    deadline = time.monotonic() + 300
    while not what():
        assert time.monotonic() < deadline
        time.sleep(0.02)


def alive(process: int) -> bool:
    try:
        return Path(f"/proc/{process}/stat").read_text().rpartition(")")[2].split()[0] not in "ZX"
    except OSError:
        return False
