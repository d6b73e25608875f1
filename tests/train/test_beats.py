"""Who hangs, from what the ranks said; and the rank that is stopped in a real run."""

import json
import os
import re
import signal
import threading
import time
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

import psutil
import pytest
from train.test_command import ranks_of, start, wait_for_step, write_config
from train.tiny import train_settings, write_cache

from kdcache.train.beats import Beat, Judge
from kdcache.train.phases import Phases

Said = tuple[int, str, int, int, bool]


def beats(*said: Said | None) -> list[Beat | None]:
    """Of each rank: its count, phase, step, marks, and whether it waits."""

    def beat(rank: int, count: int, phase: str, step: int, marks: int, waits: bool) -> Beat:
        return Beat(count, phase, step, marks, 0, waits, "model.forward, line 7", f"process {rank} on here")

    return [None if one is None else beat(rank, *one) for rank, one in enumerate(said)]


AT = "at model.forward, line 7"


def test_a_beat_is_read_as_it_was_written() -> None:
    beat = Beat(3, "evaluation", 7, 2, 9, True, "model.forward, line 7", "process 12 on a host")
    assert Beat.of_text(beat.to_text()) == beat


def test_a_rank_that_is_not_heard_of_hangs() -> None:
    judge = Judge(3, 10, 0)
    for now in range(1, 30):
        silent = min(now, 4)
        said = (now, "step", now, now, False), (silent, "step", silent, silent, False), (now, "step", now, now, True)
        judge.hear(beats(*said), now)
        assert (judge.verdict(now) is None) == (now <= 14)
    words = f"rank 1 of 3 has not been heard of for 10 s in 'step 5', {AT} (process 1 on here)"
    assert judge.verdict(29) == words


def test_a_rank_that_never_began_hangs() -> None:
    judge = Judge(2, 10, 0)
    judge.hear(beats((5, "start", 0, 0, True), None), 5)
    assert judge.verdict(9) is None
    judge.hear(beats((6, "start", 0, 0, True), None), 11)
    assert judge.verdict(11) == "rank 1 of 2 has not been heard of for 10 s"


@pytest.mark.parametrize("phase", ["start", "load", "step", "evaluation", "save", "export"])
def test_a_rank_that_does_not_get_on_while_others_wait_hangs(phase: str) -> None:
    """Its process lives. Those that wait are not to blame, nor are slow ones that get on, nor who waits too."""
    judge = Judge(3, 10, 0)
    for now in range(1, 60):  # rank 0 waits all the time for a slow rank 1, which gets on now and then
        judge.hear(beats(*((now, phase, 5, (now if rank == 1 else 0) // 8, rank != 1) for rank in range(3))), now)
        assert judge.verdict(now) is None
    for now in range(60, 80):
        judge.hear(beats(*((now, phase, 5, (7 if rank == 1 else 0), rank != 1) for rank in range(3))), now)
        assert (judge.verdict(now) is None) == (now <= 66)
    spoken = "'step 6'" if phase == "step" else f"'{phase}' after step 5"
    assert judge.verdict(79) == (
        f"rank 1 of 3 has not got on for 23 s in {spoken}, {AT} (process 1 on here), and rank 0 waits for it"
    )


def test_data_that_moves_is_a_sign_of_getting_on() -> None:
    judge = Judge(2, 10, 0)
    for now in range(1, 60):
        writing, waiting = beats((now, "save", 5, 1, False), (now, "save", 5, 1, True))
        judge.hear([writing and replace(writing, signs=now // 8), waiting], now)
        assert judge.verdict(now) is None


def test_where_no_rank_gets_on_the_one_furthest_behind_is_named() -> None:
    """As with NCCL, whose waiting is not seen; a start may take long, since all do the same."""
    judge = Judge(3, 10, 0)
    for now in range(1, 30):
        judge.hear(beats(*[(now, "start", 0, 0, False)] * 3), now)
        assert judge.verdict(now) is None
    for now in range(30, 60):
        judge.hear(beats((now, "step", 6, 2, False), (now, "evaluation", 5, 1, False), (now, "step", 6, 2, False)), now)
        assert (judge.verdict(now) is None) == (now <= 40)
    words = str(judge.verdict(59))
    assert words.startswith("rank 1 of 3 has not got on for 29 s in 'evaluation' after step 5")
    assert words.endswith("and no other rank gets on")
    judge.hear(beats(*[(60, "step", 6, 3, False)] * 3), 60)
    assert judge.verdict(69) is None
    judge.hear(beats(*[(71, "step", 6, 3, False)] * 3), 71)
    assert "rank 1 of 3 has not got on" in str(judge.verdict(71))
    assert "rank 2 of 3 has not got on" in str(judge.verdict(71))


def test_a_judge_that_was_stopped_itself_begins_anew() -> None:
    judge = Judge(2, 10, 0)
    judge.hear(beats((1, "step", 1, 1, True), (1, "step", 1, 1, False)), 1)
    judge.forgive(100)
    assert judge.verdict(105) is None


def test_what_the_main_thread_does_is_seen_from_another_thread() -> None:
    """That it sleeps here, or waits in a collective, whoever called that."""
    phases, found = Phases(), []

    def look(into: str) -> None:
        time.sleep(0.2)
        found.append((into, phases.phase, phases.step, phases.waits(), phases.place().partition(",")[0]))

    def looked_at(into: str, work: Callable[[], object]) -> None:
        thread = threading.Thread(target=look, args=(into,))
        thread.start()
        work()
        thread.join()

    looked_at("start", lambda: time.sleep(0.5))
    with phases.of("evaluation", 4):
        looked_at("sleep", lambda: time.sleep(0.5))
        collective: dict[str, Any] = {"__name__": "torch.distributed.distributed_c10d", "sleep": time.sleep}
        exec("def all_reduce(): sleep(0.5)", collective)
        looked_at("collective", collective["all_reduce"])
        with phases.waiting():
            looked_at("waiting", lambda: time.sleep(0.5))
    assert [(into, phase, step, waits) for into, phase, step, waits, _ in found] == [
        ("start", "start", 0, False),
        ("sleep", "evaluation", 4, False),
        ("collective", "evaluation", 4, True),
        ("waiting", "evaluation", 4, True),
    ]
    assert {place for *_, place in found} <= {f"{__name__}.<lambda>", f"{__name__}.looked_at"}
    assert phases.phase == "start"


def test_data_written_and_time_computed_are_signs(tmp_path: Path) -> None:
    phases = Phases()
    before = phases.signs()
    with (tmp_path / "data").open("wb") as file:
        file.write(os.urandom(4 << 20))
        os.fsync(file.fileno())
    written = phases.signs()
    assert (written > before) or not phases._blocks  # a file system in memory counts no blocks
    busy = time.process_time()
    while time.process_time() - busy < 1.2:
        pass
    assert phases.signs() > written
    with phases.of("step", 3):
        quiet = phases.signs()
        busy = time.process_time()
        while time.process_time() - busy < 1.2:
            pass
        assert phases.signs() == quiet


@pytest.mark.launch
def test_a_stopped_rank_is_named(tmp_path: Path) -> None:
    """SIGSTOP of rank 1, which rank 0 names, and of rank 0, which has the store and is named by rank 1."""
    cache = write_cache(tmp_path / "cache")
    for stopped in (1, 0):
        output = tmp_path / f"out-{stopped}"
        settings = train_settings(cache, output, steps=5000, hang_minutes=0.1)
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
        (named,) = (line for line in words.splitlines() if "has not been heard of" in line)
        assert named.startswith(f"kdcache: rank {stopped} of 2 ")
        assert "no checkpoint was written yet: the same command begins at step 0 again; " in named
        assert named.endswith("raise hang_minutes (0.1)")


@pytest.mark.launch
def test_a_rank_that_hangs_in_an_evaluation_or_a_save_is_named_and_nothing_is_lost(tmp_path: Path) -> None:
    """Its process lives. An evaluation that takes longer than the limit, batch after batch, goes on."""
    output, limit = tmp_path / "out", 12.0
    write_cache(tmp_path / "held-out", examples=14, seed=1)
    held_out = {"cache": str(tmp_path / "held-out"), "every": 2, "batch_examples": 1}
    settings = train_settings(
        write_cache(tmp_path / "cache"),
        output,
        steps=4,
        hang_minutes=limit / 60,
        eval=held_out,
        checkpoint={"every": 3},
        module="hanging",
    )
    config = write_config(tmp_path / "train.yaml", **settings)

    def words_of(hang: str) -> str:
        paths = os.pathsep.join([str(Path(__file__).parent), os.environ.get("PYTHONPATH", "")])
        process = start(config, "--nproc", 2, HANG=hang, PYTHONPATH=paths)
        _, words = process.communicate(timeout=240)
        assert process.returncode == (1 if hang else 0), words
        assert "Traceback" not in words
        return words

    words = words_of("slow evaluation, save")
    (named,) = (line for line in words.splitlines() if "has not got on" in line)
    assert re.search(r"kdcache: rank 1 of 2 has not got on for \d\d s in 'save' after step 3, at hanging\.", named)
    assert "and rank 0 waits for it; all ranks end; no checkpoint was written yet" in named
    (line,) = (
        one for one in map(json.loads, (output / "log.jsonl").read_text().splitlines()) if one["group"] == "eval"
    )
    assert line["step"] == 2

    words = words_of("evaluation after save")
    (named,) = (line for line in words.splitlines() if "has not got on" in line)
    assert re.search(r"rank 1 of 2 has not got on for \d\d s in 'evaluation' after step 4, at hanging\.", named)
    assert "run the same command again to go on from the last checkpoint" in named

    words_of("")
    lines = [json.loads(one) for one in (output / "log.jsonl").read_text().splitlines()]
    assert [one["step"] for one in lines if one["group"] == "train"] == [1, 2, 3, 4]
    assert (output / "student" / "model.safetensors").is_file()
