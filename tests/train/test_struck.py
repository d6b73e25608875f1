"""Full and failing disks, power cuts, kills and pickles, with a real engine; all of them with --long."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest

HERE = Path(__file__).parent
STAGES = (1, 2, 3)


def told_by(program: str, *arguments: object, seconds: int) -> None:
    environment = os.environ | {
        "DS_ACCELERATOR": "cpu",
        "OMP_NUM_THREADS": "1",
        "PYTHONPATH": os.pathsep.join([str(HERE.parent.parent), str(HERE.parent)]),
    }
    done = subprocess.run(
        [sys.executable, str(HERE / program), *map(str, arguments)],
        env=environment,
        capture_output=True,
        text=True,
        timeout=seconds,
        check=False,
    )
    assert done.returncode == 0, done.stdout[-1000:] + done.stderr[-4000:]


def check(root: Path, stages: str) -> None:
    """No complaint, and every scenario did something."""
    for stage in stages:
        found = {
            name: json.loads((root / f"{name}-{stage}.json").read_text()) for name in ("faults", "power", "pickles")
        }
        assert [words for told in found.values() for words in told["complaints"]] == []
        assert found["faults"]["raised"] > 0
        assert found["power"]["cuts"] > 0
        assert found["pickles"]["said"]
        for said in found["pickles"]["said"]:
            assert "holds code (posix.system)" in said
            assert "do not use checkpoints from strangers" in said
        struck, raised = found["faults"]["struck"], found["faults"]["raised"]
        print(
            f"stage {stage}: {struck} failed operations on the disk ({raised} failed saves), {found['power']['cuts']} "
            f"power cuts, {found['pickles']['files']} pickles in a checkpoint's files: no checkpoint lost, nothing run"
        )


@pytest.mark.launch
def test_a_failing_disk_a_power_cut_and_a_pickle_cost_no_checkpoint(tmp_path: Path) -> None:
    told_by("checkpointed.py", tmp_path, "2", 11, "faults", "power", "pickles", seconds=600)
    check(tmp_path, "2")


@pytest.mark.long
@pytest.mark.parametrize("stage", ["0", *map(str, STAGES)])
def test_every_operation_of_saving_a_checkpoint(tmp_path: Path, stage: str) -> None:
    told_by("checkpointed.py", tmp_path, stage, 1, "faults", "power", "pickles", seconds=3000)
    check(tmp_path, stage)


def case(stage: int, ranks: int, where: str, at: float, victim: int = 0) -> dict[str, Any]:
    return {"stage": stage, "ranks": ranks, "where": where, "at": at, "victim": victim}


SHORT = [case(2, 2, "save", 0.45, 1), case(2, 1, "convert", 0.4), case(2, 2, "full", 0.2, 1)]
LONG = [
    *(case(s, r, "step", at, r - 1) for s in STAGES for r in (1, 2) for at in (0.3, 0.9)),
    *(case(s, 1, "save", (k + 0.5) / 6) for s in STAGES for k in range(6)),
    *(case(s, 2, "full", 0.2, 1) for s in STAGES),
    *(case(s, 2, "save", (k + 0.5) / 3, k % 2) for s in STAGES for k in range(3)),
    *(case(s, r, "export", at) for s in STAGES for r in (1, 2) for at in (0.2, 0.8)),
    *(case(s, 1, "convert", at) for s in STAGES for at in (0.1, 0.9)),
]


def check_killed(root: Path, cases: list[dict[str, Any]]) -> None:
    found = json.loads((root / "killed.json").read_text())
    assert len(found) == len(cases)
    killed = [told for told in found if told["killed"] or (told["where"] == "full" and told["stopped"])]
    faults = {
        "bytes lost": [told for told in found if told["left"] or not told["finished"]],
        "wrong data": [told for told in found if told["finished"] and not told["same"]],
        "tracebacks": [told for told in found if told["traceback"]],
        "hangs": [told for told in found if told["hung"]],
    }
    longest = max(told["seconds"] for told in found)
    counts = ", ".join(f"{len(of)} {name}" for name, of in faults.items())
    print(f"{len(killed)} kills and full disks of train: {counts}, longest recovery {longest} s")
    assert not any(faults.values()), faults
    assert len(killed) >= 0.9 * len(cases)


@pytest.mark.launch
def test_two_kills_and_a_full_disk_change_nothing(tmp_path: Path) -> None:
    told_by("killed.py", tmp_path, json.dumps(SHORT), seconds=600)
    check_killed(tmp_path, SHORT)


@pytest.mark.long
@pytest.mark.parametrize("stage", STAGES)
def test_sixty_kills_change_nothing(tmp_path: Path, stage: int) -> None:
    assert len(LONG) == 60
    cases = [case for case in LONG if case["stage"] == stage]
    told_by("killed.py", tmp_path, json.dumps(cases), seconds=3600)
    check_killed(tmp_path, cases)
