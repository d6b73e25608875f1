"""When a run saves and leaves, and what a signal does, without a launch."""

import os
import signal
import subprocess
import sys
import time
from pathlib import Path

import psutil
import pytest

from kdcache.errors import RunStoppedError
from kdcache.launcher import World
from kdcache.train.ancestors import Launchers, is_launcher, mark_of
from kdcache.train.leaving import Leaving, how_to_go_on
from kdcache.train.settings import CheckpointConfig
from kdcache.train.watch import Watch


def leaving(rank: int = 0, asked: str | None = None, **settings: float) -> Leaving:
    return Leaving(CheckpointConfig(**settings), World(rank, 2, rank), lambda: asked)  # type: ignore[arg-type]


def meet(*ranks: Leaving) -> None:
    """As the all-reduce of a step does."""
    counts = [sum(votes) for votes in zip(*(one.votes() for one in ranks), strict=True)]
    for one in ranks:
        one.hear(counts)


@pytest.mark.skipif(not sys.platform.startswith("linux"), reason="asks Linux to end the process")
def test_a_conversion_ends_with_its_rank(tmp_path: Path) -> None:
    """Of a checkpoint whose reading never ends."""
    source = tmp_path / "step-00000001"
    source.mkdir()
    for name in ("mp_rank_00_model_states.pt", "zero_pp_rank_0_mp_rank_00_optim_states.pt"):
        os.mkfifo(source / name)
    code = f"from kdcache.train.universal import *; from pathlib import Path; convert(Path({str(source)!r}), Path('x'))"
    rank = subprocess.Popen([sys.executable, "-c", code], cwd=tmp_path)
    try:
        while not (begun := psutil.Process(rank.pid).children()):
            time.sleep(0.1)
        while not any("libtorch" in part.path for part in begun[0].memory_maps()):
            time.sleep(0.1)
        used = -1.0
        while used != (used := sum(begun[0].cpu_times()[:2])):  # until it waits for the writer of a FIFO
            time.sleep(1)
    finally:
        rank.kill()
        rank.wait()
    alive = psutil.wait_procs(begun, timeout=15)[1]
    for process in alive:
        process.kill()
    assert not alive


def test_a_signal_of_one_rank_is_heard_by_all_after_the_same_step() -> None:
    ranks = leaving(0), leaving(1, asked="SIGTERM")
    meet(*ranks)
    for one in ranks:
        assert one.is_due(7, 100)
        with pytest.raises(RunStoppedError) as caught:
            one.check(7, 100)
        assert caught.value.exit_status == 75
        assert str(caught.value) == (
            "stopped by SIGTERM after step 7 of 100, whose checkpoint is written; run the same command again to go on"
        )


def test_the_time_of_rank_0_decides() -> None:
    first, second = leaving(0, stop_after_minutes=1e-9), leaving(1, stop_after_minutes=1e-9)
    assert not any(second.votes())
    meet(first, second)
    with pytest.raises(RunStoppedError, match=r"the time is over \(checkpoint.stop_after_minutes 1e-09\) after step 3"):
        second.check(3, 9)


def test_a_checkpoint_is_due_by_steps_by_minutes_and_at_the_end() -> None:
    ranks = leaving(0, every=5), leaving(1, every=5)
    meet(*ranks)
    assert [step for step in range(1, 13) if ranks[1].is_due(step, 12)] == [5, 10, 12]
    for one in ranks:
        one.check(5, 12)
    ranks = leaving(0, every=0, minutes=1e-3), leaving(1, every=0, minutes=1e-3)
    time.sleep(0.1)
    meet(*ranks)
    assert all(one.is_due(3, 12) for one in ranks)
    for one in ranks:
        one.check(3, 12)
        one.saved()
    meet(*ranks)
    assert not any(one.is_due(4, 12) for one in ranks)


def test_what_is_said_of_going_on_is_true(tmp_path: Path) -> None:
    assert how_to_go_on(tmp_path) == "no checkpoint was written yet: the same command begins at step 0 again"
    (tmp_path / "checkpoints" / "step-00000003").mkdir(parents=True)
    assert how_to_go_on(tmp_path).startswith("no checkpoint")
    (tmp_path / "checkpoints" / "step-00000003" / "kdcache.json").write_text("{}")
    assert how_to_go_on(tmp_path) == "run the same command again to go on from the last checkpoint"


def test_the_first_signal_asks_and_handlers_are_given_back(capsys: pytest.CaptureFixture[str]) -> None:
    before = signal.getsignal(signal.SIGTERM)
    with Watch() as watch:
        assert watch.asked is None
        os.kill(os.getpid(), signal.SIGTERM)
        os.kill(os.getpid(), signal.SIGINT)  # one Ctrl-C, handed on twice
        deadline = time.monotonic() + 10
        while watch.asked is None and time.monotonic() < deadline:
            time.sleep(0.01)
        assert watch.asked in ("SIGTERM", "SIGINT")
    assert signal.getsignal(signal.SIGTERM) is before
    assert "the run ends after this step, with a checkpoint" in capsys.readouterr().err


WAITING = """
import time
from kdcache.train.watch import Watch
with Watch():
    print("ready", flush=True)
    time.sleep(60)
"""


def test_a_second_signal_ends_a_process_that_waits() -> None:
    process = subprocess.Popen(
        [sys.executable, "-c", WAITING], stdout=subprocess.PIPE, stderr=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    process.stdout.readline()
    process.send_signal(signal.SIGTERM)
    time.sleep(1.5)
    assert process.poll() is None
    process.send_signal(signal.SIGTERM)
    _, words = process.communicate(timeout=10)
    assert process.returncode == 1
    assert words.splitlines()[-1] == "kdcache: ended at once by a second signal, SIGTERM"


def test_a_rank_that_outlived_its_launcher_ends() -> None:
    """The launcher was gone before the rank looked; its pid may be another process' now."""
    with subprocess.Popen([sys.executable, "-c", "input()"], stdin=subprocess.PIPE) as launcher:
        mark = mark_of(launcher.pid)
        assert Launchers({"KDCACHE_STARTED_BY": mark}).gone() is None
        launcher.kill()
    started = {"KDCACHE_STARTED_BY": mark}
    assert Launchers(started).gone() == launcher.pid
    environment = os.environ | started
    done = subprocess.run([sys.executable, "-c", WAITING], env=environment, capture_output=True, text=True, timeout=30)
    assert done.returncode == 1
    assert "the launcher, process " in done.stderr
    assert Launchers({"KDCACHE_STARTED_BY": f"{os.getpid()}:12.5"}).gone() == os.getpid()


@pytest.mark.parametrize(
    ("command", "launcher"),
    [
        ("/x/python -u -m deepspeed.launcher.launch --module kdcache train c.yaml", True),
        ("/x/python3.11 /x/bin/deepspeed --num_gpus 2 --module kdcache train c.yaml", True),
        ("/x/python /x/bin/torchrun --nproc-per-node 2 -m kdcache train c.yaml", True),
        ("python -m torch.distributed.run -m kdcache train c.yaml", True),
        ("python -m kdcache train c.yaml --nproc 2", True),
        ("/x/python /x/bin/kdcache train c.yaml --nproc 2", True),
        ("bash -c kdcache", False),
        ("timeout 60 kdcache train c.yaml", False),
        ("sudo kdcache train c.yaml", False),
        ("bash launch/train.sh c.yaml 8", False),
        ("python -m pytest kdcache", False),
        ("python my_driver.py kdcache", False),
        ("", False),
    ],
)
def test_a_shell_that_runs_a_command_is_no_launcher(command: str, launcher: bool) -> None:
    """It may leave while its command runs on, as `sh -c "kdcache train c.yaml &"` does."""
    assert is_launcher(command.split()) == launcher
