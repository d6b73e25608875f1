"""Who hangs, from what the ranks said; and the rank that is stopped in a real run."""

import signal
import time
from pathlib import Path

import psutil
import pytest
from train.test_command import ranks_of, start, wait_for_step, write_config
from train.tiny import train_settings

from kdcache.train.beats import Beat, Judge


def beats(*said: tuple[int, int, bool] | None) -> list[Beat | None]:
    return [None if one is None else Beat(*one, who=f"process {rank} on here") for rank, one in enumerate(said)]


def test_a_beat_is_read_as_it_was_written() -> None:
    beat = Beat(3, 7, True, "process 12 on a host")
    assert Beat.of_text(beat.to_text()) == beat


def test_a_rank_that_is_not_heard_of_hangs() -> None:
    judge = Judge(3, 10, 0)
    for now in range(1, 30):
        judge.hear(beats((now, now, False), (min(now, 4), min(now, 4), False), (now, now, True)), now)
        assert (judge.verdict(now) is None) == (now <= 14)
    assert judge.verdict(29) == "rank 1 (process 1 on here, step 5) hangs: nothing was heard of it for 10 s"


def test_a_rank_that_never_began_hangs() -> None:
    judge = Judge(2, 10, 0)
    judge.hear(beats((5, 0, True), None), 5)
    assert judge.verdict(9) is None
    judge.hear(beats((6, 0, True), None), 11)
    assert str(judge.verdict(11)).startswith("rank 1 hangs: nothing was heard of it")


def test_a_rank_that_does_not_come_to_the_step_hangs() -> None:
    """Its process lives. Those that wait are not to blame, nor are slow steps in which nobody waits."""
    judge = Judge(3, 10, 0)
    for now in range(1, 40):
        judge.hear(beats((now, 5, False), (now, 5, False), (now, 5, False)), now)
        assert judge.verdict(now) is None
    for now in range(40, 60):
        judge.hear(beats((now, 6, True), (now, 5, False), (now, 6, now > 45)), now)
        assert (judge.verdict(now) is None) == (now <= 50)
    assert judge.verdict(59) == "rank 1 (process 1 on here, step 6) hangs: rank 0 waited for it at step 7 for 10 s"


def test_a_judge_that_was_stopped_itself_begins_anew() -> None:
    judge = Judge(2, 10, 0)
    judge.hear(beats((1, 1, True), (1, 1, False)), 1)
    judge.forgive(100)
    assert judge.verdict(105) is None


@pytest.mark.launch
def test_a_stopped_rank_is_named(root: Path, tmp_path: Path) -> None:
    """SIGSTOP of rank 1, which rank 0 names, and of rank 0, which has the store and is named by rank 1."""
    for stopped in (1, 0):
        output = tmp_path / f"out-{stopped}"
        settings = train_settings(root / "cache", output, steps=5000, hang_minutes=0.1)
        process = start(write_config(tmp_path / f"{stopped}.yaml", **settings), "--nproc", 2)
        wait_for_step(output, 3)
        ranks = ranks_of(process)
        ranks[stopped].send_signal(signal.SIGSTOP)
        begun = time.monotonic()
        assert not psutil.wait_procs([ranks[1 - stopped]], timeout=40)[1]
        assert time.monotonic() - begun < 30
        ranks[stopped].kill()
        _, words = process.communicate(timeout=60)
        assert process.returncode == 1
        assert "Traceback" not in words
        (named,) = (line for line in words.splitlines() if "hangs" in line)
        assert named.startswith(f"kdcache: rank {stopped} ")
        assert named.endswith("no checkpoint was written yet: the same command begins at step 0 again")
