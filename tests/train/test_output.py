"""A run's folder: one run at a time, a killed one gives it up, and what a user put there stays."""

import json
import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import pytest
import yaml
from train.tiny import train_settings, write_cache

from kdcache.owned.folder import read_owner
from kdcache.owned.model import faults

ONE_THREAD = os.environ | {"OMP_NUM_THREADS": "1"}


def start(config: Path, *more: str) -> subprocess.Popen[str]:
    command = [sys.executable, "-m", "kdcache", "train", str(config), *more]
    return subprocess.Popen(command, env=ONE_THREAD, stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True)


@pytest.mark.launch
def test_one_run_at_a_time_writes_into_a_folder(tmp_path: Path) -> None:
    """The second one is refused, the first is killed, the third goes on at once and keeps what is not kdcache's."""
    write_cache(tmp_path / "cache")
    output, config = tmp_path / "out", tmp_path / "train.yaml"
    config.write_text(
        yaml.safe_dump(train_settings(tmp_path / "cache", output, steps=100_000, checkpoint={"every": 20}))
    )
    first = start(config)
    try:
        deadline = time.monotonic() + 240
        while not (output / "checkpoints" / "latest").exists():
            assert time.monotonic() < deadline
            assert first.poll() is None, first.communicate()
            time.sleep(0.05)
        second = start(config)
        _, words = second.communicate(timeout=240)
        assert second.returncode == 1
        assert f"{output} is being written by kdcache train, process {first.pid} on " in words
        assert len(words.strip().splitlines()) == 1
        assert first.poll() is None, "the first one runs on"
    finally:
        first.send_signal(signal.SIGKILL)
        first.communicate()

    best = output / "checkpoints" / "step-00000020-best"
    best.mkdir()
    (best / "weights").write_text("mine")
    (output / "student").mkdir()
    (output / "student" / "config.json").write_text("mine")
    steps = int((output / "checkpoints" / "latest").read_text().removeprefix("step-")) + 20
    config.write_text(yaml.safe_dump(train_settings(tmp_path / "cache", output, steps=steps, checkpoint={"every": 20})))
    third = start(config)
    _, words = third.communicate(timeout=240)
    assert third.returncode == 0, words
    assert "going on from step " in words
    assert (best / "weights").read_text() == "mine"
    assert (output / "student.kept-1" / "config.json").read_text() == "mine"
    assert "student held files that kdcache did not write (config.json)" in words
    assert json.loads((output / "student" / "config.json").read_text())["model_type"] == "llama"
    assert faults(output / "student") == []
    owner = read_owner(output)
    assert owner is not None
    assert (owner.kind, owner.config["steps"]) == ("run", 100_000)
    assert not [*(output / ".kdcache" / "locks").iterdir()]
