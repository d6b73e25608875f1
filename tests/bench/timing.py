"""Sides of a comparison in turn in one process, in CPU seconds; and how far a step raises resident memory.

CPU time, since other work on the machine makes seconds of the clock longer; in turn, since it makes CPU seconds longer
too. OMP_WAIT_POLICY=passive (running.py) keeps waiting threads from counting.
"""

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from pathlib import Path
from typing import Any

from tests.bench.part import Rows

__all__ = ["against", "interleaved", "middle_half", "raised_memory", "reason"]


def interleaved(
    sides: Mapping[str, Callable[[], Any]], rounds: int, *, warm_up: int = 1, seldom: Mapping[str, int] | None = None
) -> Rows:
    """Run every side once a round, in a new order each round.

    Args:
        sides: Name to what is timed.
        rounds: How many count.
        warm_up: Rounds before, which do not.
        seldom: Sides that run in each so many rounds alone, where less would tell as much.

    Returns:
        Name to {"cpu": seconds of each round, "clock": the same by the clock}, or {"failed": why}.
    """
    rows: Rows = {name: {"cpu": [], "clock": []} for name in sides}
    for number in range(warm_up + rounds):
        for name in random.sample(list(sides), len(sides)):
            every = (seldom or {}).get(name, 1)
            if "failed" in rows[name] or (number >= warm_up and (number - warm_up) % every):
                continue
            gc.collect()
            cpu, clock = time.process_time(), time.perf_counter()
            try:
                sides[name]()
            except Exception as error:
                rows[name] = {"failed": reason(error)}
                continue
            if number >= warm_up:
                rows[name]["cpu"].append(time.process_time() - cpu)
                rows[name]["clock"].append(time.perf_counter() - clock)
    return rows


def against(row: Rows, base: Rows, what: str = "cpu") -> tuple[float, float, float]:
    """(ratio of the medians, least and greatest ratio of a round)."""
    of_rounds = [a / b for a, b in zip(row[what], base[what], strict=False)]
    return statistics.median(row[what]) / statistics.median(base[what]), min(of_rounds), max(of_rounds)


def middle_half(row: Rows, base: Rows, every: int = 1) -> tuple[float, float, float]:
    """(ratio of the medians, first and third quartile of the rounds' ratios), for many rounds; every: row's rounds."""
    of_rounds = [a / b for a, b in zip(row["cpu"], base["cpu"][::every], strict=True)]
    first, _, third = statistics.quantiles(of_rounds, n=4) if len(of_rounds) > 1 else [of_rounds[0]] * 3
    return statistics.median(row["cpu"]) / statistics.median(base["cpu"]), first, third


def reason(error: BaseException) -> str:
    """In one line."""
    return f"{type(error).__name__}: {' '.join(str(error).split())}"[:300]


def raised_memory(step: Callable[[], Any]) -> float:
    """MB by which the most resident memory of a step stands above what was resident before it. Linux alone."""
    gc.collect()
    before = status("VmRSS")
    Path("/proc/self/clear_refs").write_text("5")  # the high-water mark starts anew
    step()
    return (status("VmHWM") - before) / 1e3


def status(key: str) -> int:
    """kB of a line of /proc/self/status."""
    lines = Path("/proc/self/status").read_text().splitlines()
    return next(int(line.split()[1]) for line in lines if line.startswith(key))
