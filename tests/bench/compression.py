"""What compression adds to a dump: a teacher's bare forward pass against compress_to_arrays on its logits.

    PYTHONPATH=tests python tests/bench/compression.py TEACHER [--threads 2] [--windows 4] [--length 256] [--rounds 7]

TEACHER is a folder, such as `python launch/fetch_smollm2.py` prints. float32, the forward pass with its LM head. In one
process, forward and compressions one after the other each round, the compressions in a new order; medians. CPU seconds
say more than seconds of the clock on a machine with other work.

SmolLM2-135M, one core of an Intel Xeon (AVX-512), torch 2.13.0+cpu, --threads 1 --windows 2 --rounds 3, 2026-11-24:

                       rows/s   ratio  of CPU s
    forward               353   1.000     1.000
    default              2005   0.176     0.161
    T = 1 profile        3742   0.094     0.095

Of the default's time 57% are the tail's moments (six exponentials of which four are products, and the product that
sums them), 24% the survey (maxima, normaliser), 7% the certain entries, 7% the draw.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path

import torch
from real_rows import load_teacher, token_windows
from torch import Tensor

from kdcache.targets.compress import compress_to_arrays
from kdcache.targets.spec import CurveSpec, RecordSpec

BLOCK = 512
"""Rows a call, as a dump makes them."""
SPECS = {
    "default": RecordSpec(),
    "T = 1 profile": RecordSpec(exact_top_k=0, samples=21, curve=CurveSpec(temperatures=(1.0,))),
}


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("teacher", type=Path)
    for name, default in {"threads": 2, "windows": 4, "length": 256, "rounds": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    teacher = load_teacher(options.teacher)
    tokens = token_windows(options.teacher, options.windows * options.rounds, options.length)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ("forward", *SPECS)}
    with torch.inference_mode():
        teacher(tokens[: options.windows], use_cache=False)
        for tokens_BL in tokens.split(options.windows):
            logits_PV, taken = timed(lambda: teacher(tokens_BL, use_cache=False).logits.flatten(0, 1))  # noqa: B023
            seconds["forward"].append(taken)
            for name in random.sample(list(SPECS), len(SPECS)):
                seconds[name].append(timed(partial(compress, logits_PV, SPECS[name]))[1])
    rows = options.windows * options.length
    forward = medians(seconds["forward"])
    print(f"{rows} rows of {logits_PV.shape[1]} classes, {options.threads} threads")
    print(f"{'':<16}{'rows/s':>9}{'ratio':>8}{'of CPU s':>10}")
    for name, taken in seconds.items():
        clock, processor = medians(taken)
        print(f"{name:<16}{rows / clock:9.0f}{clock / forward[0]:8.3f}{processor / forward[1]:10.3f}")


def compress(logits_PV: Tensor, spec: RecordSpec) -> None:
    for block_PV in logits_PV.split(BLOCK):
        compress_to_arrays(block_PV, spec)


def timed(function: Callable[[], Tensor | None]) -> tuple[Tensor, tuple[float, float]]:
    """What it returns; seconds by the clock and of CPU."""
    clock, processor = time.perf_counter(), time.process_time()
    result = function()
    taken = time.perf_counter() - clock, time.process_time() - processor
    return result, taken  # type: ignore[return-value]


def medians(seconds: list[tuple[float, float]]) -> tuple[float, float]:
    clocks, processors = zip(*seconds, strict=True)
    return statistics.median(clocks), statistics.median(processors)


if __name__ == "__main__":
    main()
