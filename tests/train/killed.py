"""Kills of training, each followed by a restart that must come to what an undisturbed run comes to.

python killed.py ROOT CASES leaves ROOT/killed.json. CASES is a JSON list of
{"stage": 1, "ranks": 2, "where": "save", "at": 0.3, "victim": 1}.

where: "step" (after the backward pass of a step), "save" (at an operation on the disk of saving a checkpoint), "full"
(there the disk is full, from then on, for this rank alone), "export" (at an operation of writing the student),
"convert" (while a checkpoint of 2 ranks is converted for 1). at: how far into it, from 0 to 1. The killed processes are
real ones; they are forked from a parent that has everything imported.
"""

import errno
import json
import os
import shutil
import signal
import sys
import threading
import time
from collections.abc import Callable
from pathlib import Path
from typing import Any

import deepspeed
import torch
from train.striking import watch
from train.tiny import dropping_student, train_config, write_cache

from kdcache.errors import KdcacheError
from kdcache.launcher import World
from kdcache.train.checkpoint_engine import CheckpointFiles  # noqa: F401
from kdcache.train.distributed import connect, free_port
from kdcache.train.plan import plan
from kdcache.train.run import train

STEPS, EVERY = 6, 2
MOST_SECONDS = 120
VOLATILE = ("tok/s", "tokens_per_second", "time", "seconds")


def fork(root: Path, output: Path, stage: int, ranks: int, strike: Callable[[int], None] | None = None) -> list[int]:
    """Start the ranks. strike: what is done in each before it trains, given its number."""
    port, pids = free_port(), []
    for rank in range(ranks):
        pid = os.fork()
        if pid:
            pids.append(pid)
            continue
        status = 3
        try:
            os.setsid()
            log = os.open(output.with_name(f"{output.name}.{rank}.log"), os.O_WRONLY | os.O_CREAT | os.O_APPEND)
            os.dup2(log, 1)
            os.dup2(log, 2)
            os.environ.update(RANK=str(rank), MASTER_ADDR="127.0.0.1", MASTER_PORT=str(port))
            world = World(rank, ranks, rank)
            connect(world, "cpu")
            if strike is not None:
                strike(rank)
            keep = {"every": EVERY, "keep": 2}
            settings = {"stage": stage, "steps": STEPS, "student": dropping_student(), "checkpoint": keep}
            train(plan(train_config(root / "cache", output, **settings)), world, "cpu")
            status = 0
        except KdcacheError as error:
            print("KdcacheError", error, flush=True)
            status = 1
        except RuntimeError as error:  # the other rank is gone
            print("RuntimeError", error, flush=True)
            status = 1
        finally:
            os._exit(status)
    return pids


def statuses(pids: list[int]) -> list[int | None]:
    """Exit statuses, negative for a signal; None for one that hung, which is killed."""
    found: dict[int, int | None] = {}
    end = time.monotonic() + MOST_SECONDS
    while len(found) < len(pids):
        time.sleep(0.02)
        late = time.monotonic() > end
        for pid in [pid for pid in pids if pid not in found]:
            if late:
                os.kill(pid, signal.SIGKILL)
            ended, status = os.waitpid(pid, 0 if late else os.WNOHANG)
            if ended:
                found[pid] = None if late else os.waitstatus_to_exitcode(status)
    return [found[pid] for pid in pids]


def die() -> None:
    os.killpg(0, signal.SIGKILL)


def in_a_step(at: float) -> None:
    """Before the update of a step, so far into the run."""
    update, steps = deepspeed.DeepSpeedEngine.step, 0

    def step(self: Any, *arguments: Any, **settings: Any) -> Any:
        nonlocal steps
        steps += self.is_gradient_accumulation_boundary()
        if steps > at * (STEPS - 1):
            die()
        return update(self, *arguments, **settings)

    deepspeed.DeepSpeedEngine.step = step


def full() -> None:
    raise OSError(errno.ENOSPC, os.strerror(errno.ENOSPC))


def at_an_operation(folder: Path, number: int, word: str = "", strike: Callable[[], None] = die) -> None:
    """At the so-manieth operation on the disk under a folder whose path holds the word, and at all after it."""
    count = 0

    def watcher(what: str, path: Path) -> None:
        nonlocal count
        count += word in str(path)
        if count > number:
            strike()

    watch(folder, watcher)


def when_there_are_files(folder: Path, number: int, *, alone: bool) -> None:
    """alone: the process that converts lives on, and writes beside the next one."""

    def wait() -> None:
        while sum(len(files) for _, _, files in os.walk(folder)) <= number:
            time.sleep(0.002)
        if alone:
            os.kill(os.getpid(), signal.SIGKILL)
        die()

    threading.Thread(target=wait, daemon=True).start()


def strike(case: dict[str, Any], output: Path, operations: dict[str, int]) -> Callable[[int], None]:
    """What kills the victim of this case, rank 0 where none is named."""
    where, at = case["where"], case["at"]
    victim = case.get("victim", 0)

    def set_up(rank: int) -> None:
        if rank != victim:
            return
        if where == "step":
            in_a_step(at)
        elif where == "save":
            at_an_operation(output / "checkpoints", int(at * operations["save"]))
        elif where == "full":
            at_an_operation(output / "checkpoints", int(at * operations["save"]), strike=full)
        elif where == "export":
            at_an_operation(output, int(at * operations["export"]), "student")
        else:
            when_there_are_files(output / ".kdcache" / "universal", int(at * operations["convert"]), alone=at > 0.5)

    return set_up


class Calm:
    """Undisturbed runs, each made once, and how many operations on a disk they take."""

    def __init__(self, root: Path) -> None:
        self.root = root
        self.made: dict[tuple[int, int, bool], tuple[dict[str, Any], dict[str, int]]] = {}

    def of(self, stage: int, ranks: int, converted: bool) -> tuple[dict[str, Any], dict[str, int]]:
        key = (stage, ranks, converted)
        if key not in self.made:
            output = self.root / f"calm-{stage}-{ranks}-{converted}"
            if converted:
                self.half_way(stage, output)
            counted = self.root / f"counted-{stage}-{ranks}-{converted}"

            def count(rank: int) -> None:
                if rank == 0:
                    watch(output, note)

            def note(what: str, path: Path) -> None:
                with counted.open("a") as file:
                    file.write(f"{path}\n")

            ended = statuses(fork(self.root, output, stage, ranks, count))
            assert ended == [0] * ranks, (key, ended)
            lines = counted.read_text().splitlines()
            saving = sum(str(output / "checkpoints") in line for line in lines)
            exporting = sum("student" in line.removeprefix(str(output)) for line in lines)
            # torch.save of the conversion is C++: its files are counted as they come
            self.made[key] = result(output), {"save": saving, "export": exporting, "convert": 60}
        return self.made[key]

    def half_way(self, stage: int, output: Path) -> None:
        """A run of 2 ranks that was stopped when it had saved the checkpoint before the last."""
        self.of(stage, 2, False)
        shutil.copytree(self.root / f"calm-{stage}-2-False", output)
        shutil.rmtree(output / "student")
        (output / "done.json").unlink()
        shutil.rmtree(output / "checkpoints" / f"step-{STEPS:08d}")
        (output / "checkpoints" / "latest").write_text(f"step-{STEPS - EVERY:08d}\n")


def result(output: Path) -> dict[str, Any]:
    """Parameters and log of a finished run."""
    lines = [json.loads(line) for line in (output / "log.jsonl").read_text().splitlines()]
    log = [{key: value for key, value in line.items() if key not in VOLATILE} for line in lines]
    return {"log": log, "weights": (output / "student" / "model.safetensors").read_bytes()}


def run_case(calm: Calm, case: dict[str, Any], number: int) -> dict[str, Any]:
    """Kill, restart, compare. Returns what happened."""
    converted = case["where"] == "convert"
    expected, operations = calm.of(case["stage"], case["ranks"], converted)
    output = calm.root / f"killed-{number}"
    if converted:
        calm.half_way(case["stage"], output)
    ended = statuses(fork(calm.root, output, case["stage"], case["ranks"], strike(case, output, operations)))
    started = time.monotonic()
    again = statuses(fork(calm.root, output, case["stage"], case["ranks"]))
    told = case | {
        "killed": -signal.SIGKILL in ended,
        "stopped": ended == [1] * case["ranks"],
        "hung": None in ended + again,
        "finished": again == [0] * case["ranks"],
        "seconds": round(time.monotonic() - started, 1),
    }
    found = result(output) if told["finished"] else {}
    told |= {"same": found == expected, "left": [*map(str, left_over(output))]}
    logs = [output.with_name(f"{output.name}.{rank}.log") for rank in range(case["ranks"])]
    told["traceback"] = any("Traceback" in path.read_text() for path in logs)
    if told["same"] and not told["left"]:
        shutil.rmtree(output)
    return told


def left_over(output: Path) -> list[Path]:
    hidden = output / "checkpoints" / ".kdcache"
    return [*hidden.iterdir()] if hidden.exists() else []


if __name__ == "__main__":
    torch.set_num_threads(1)
    root, cases = Path(sys.argv[1]).resolve(), json.loads(sys.argv[2])
    if not (root / "cache").exists():
        write_cache(root / "cache")
    calm, told = Calm(root), []
    for number, case in enumerate(cases):
        told.append(run_case(calm, case, number))
        (root / "killed.json").write_text(json.dumps(told, indent=1))
