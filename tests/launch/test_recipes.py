"""The recipes for clusters, run as far as one machine goes: Slurm's arrays and SkyPilot's nodes by their variables."""

import os
import subprocess
import sys
from collections.abc import Mapping
from pathlib import Path

import pytest
import yaml
from helpers import Run, files_of, sentences, write_jsonl

LAUNCH = Path(__file__).parents[2] / "launch"
SCRIPTS = sorted([*LAUNCH.glob("*.sh"), *LAUNCH.glob("*.slurm")])


@pytest.mark.parametrize("script", SCRIPTS, ids=lambda script: script.name)
def test_a_script_is_one(script: Path) -> None:
    assert subprocess.run(["bash", "-n", script], check=False).returncode == 0


@pytest.fixture
def config(teacher_folder: Path, tmp_path: Path) -> Path:
    """A dump of five units."""
    write_jsonl(tmp_path / "corpus.jsonl", sentences(40))
    settings = {
        "output": str(tmp_path / "cache"),
        "corpus": {"paths": str(tmp_path / "corpus.jsonl"), "format": "jsonl", "unit_rows": 8},
        "teacher": {"path": str(teacher_folder), "dtype": "float32"},
        "task": {"sequence_length": 64},
        "compute": {"threads": 1, "device": "cpu"},
    }
    path = tmp_path / "dump.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def bash(*command: object, **variables: object) -> subprocess.CompletedProcess[str]:
    """With `kdcache` of this Python, and without the variables of a launcher that started the tests."""
    kept = {name: value for name, value in os.environ.items() if not name.startswith(("SLURM_", "SKYPILOT_"))}
    environment = kept | {name: str(value) for name, value in variables.items()}
    environment["PATH"] = f"{Path(sys.executable).parent}{os.pathsep}{environment['PATH']}"
    environment["PYTHONPATH"] = str(LAUNCH.parent)
    given = ["bash", *map(str, command)]
    return subprocess.run(given, env=environment, capture_output=True, text=True, check=False, timeout=300)


def array(task: int, tasks: list[int]) -> Mapping[str, object]:
    """What Slurm says to a task."""
    said = {"ID": task, "COUNT": len(tasks), "MIN": min(tasks), "MAX": max(tasks)}
    return {f"SLURM_ARRAY_TASK_{name}": value for name, value in said.items()}


def test_an_array_that_begins_at_1_and_has_steps_makes_every_shard(config: Path, run: Run, tmp_path: Path) -> None:
    for task in (tasks := [1, 4]):
        ran = bash(LAUNCH / "array.slurm", config, **array(task, tasks))
        assert ran.returncode == 0, ran.stderr
    assert "5 shards" in ran.stdout
    assert run("dump-logits", config, "-o", f"output={tmp_path / 'alone'}")[0] == 0
    assert files_of(tmp_path / "cache") == files_of(tmp_path / "alone")


def test_an_array_with_gaps_is_refused(config: Path, tmp_path: Path) -> None:
    for tasks in ([1, 2, 4], [0, 1, 5, 6]):
        ran = [bash(LAUNCH / "array.slurm", config, "--help", **array(task, tasks)) for task in tasks]
        assert any(one.returncode == 2 and "gaps; expected equal steps" in one.stderr for one in ran), tasks


def test_sky_starts_a_rank_for_each_gpu_of_each_node(config: Path, run: Run, tmp_path: Path) -> None:
    recipe = yaml.safe_load((LAUNCH / "sky.yaml").read_text())
    given = {**recipe["envs"], "CONFIG": config, "OUTPUT": tmp_path / "sky"}
    nodes = {"SKYPILOT_NUM_NODES": 2, "SKYPILOT_NUM_GPUS_PER_NODE": 1}
    ran = [bash("-c", recipe["run"], **given, **nodes, SKYPILOT_NODE_RANK=node) for node in (1, 0)]
    assert [one.returncode for one in ran] == [0, 0], ran[0].stderr + ran[1].stderr
    assert "5 shards" in ran[1].stdout
    failing = bash("-c", recipe["run"], **{**given, "CONFIG": "/nowhere.yaml"}, **nodes, SKYPILOT_NODE_RANK=0)
    assert failing.returncode == 2
