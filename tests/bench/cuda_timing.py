"""Seconds on a GPU, by events around the work; sides of a comparison in turn, medians. By the clock where no GPU is."""

import gc
import random
import statistics
import time
from collections.abc import Callable, Mapping
from typing import Any

import torch

from tests.bench.part import Rows
from tests.bench.timing import reason

__all__ = ["in_turn", "median", "peak_memory", "seconds"]


def seconds(step: Callable[[], Any], times: int, device: torch.device) -> float:
    """What one of so many calls takes, one after the other."""
    if device.type != "cuda":
        start = time.perf_counter()
        for _ in range(times):
            step()
        return (time.perf_counter() - start) / times
    begin, end = (torch.cuda.Event(enable_timing=True) for _ in range(2))
    torch.cuda.synchronize(device)
    begin.record()
    for _ in range(times):
        step()
    end.record()
    end.synchronize()
    return begin.elapsed_time(end) / 1e3 / times


def in_turn(
    sides: Mapping[str, Callable[[], Any]], *, rounds: int, times: int, device: torch.device, warm_up: int = 3
) -> Rows:
    """Run every side so many times once a round, in a new order each round.

    Returns:
        Name to {"seconds": of one call, in each round}, or {"failed": why}.
    """
    rows: Rows = {name: {"seconds": []} for name in sides}
    for number in range(1 + rounds):
        for name in random.sample(list(sides), len(sides)):
            if "failed" in rows[name]:
                continue
            gc.collect()
            try:
                found = seconds(sides[name], times if number else warm_up, device)
            except Exception as error:
                rows[name] = {"failed": reason(error)}
                continue
            if number:
                rows[name]["seconds"].append(found)
    return rows


def median(row: Rows) -> float:
    """Of a side's rounds, in seconds."""
    return statistics.median(row["seconds"])


def peak_memory(step: Callable[[], Any], device: torch.device) -> float | None:
    """MB that the step needs above what is there before it; None without a GPU."""
    if device.type != "cuda":
        return None
    gc.collect()
    torch.cuda.synchronize(device)
    before = torch.cuda.memory_allocated(device)
    torch.cuda.reset_peak_memory_stats(device)
    step()
    torch.cuda.synchronize(device)
    return (torch.cuda.max_memory_allocated(device) - before) / 1e6
