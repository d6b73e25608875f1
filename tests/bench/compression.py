"""What compression adds to a dump: a teacher's bare forward pass against compress_to_arrays on its logits.

    PYTHONPATH=tests python tests/bench/compression.py TEACHER [--threads 2] [--windows 4] [--length 256] [--rounds 7]

TEACHER is a folder, such as `python launch/fetch_smollm2.py` prints. float32, the forward pass with its LM head. In one
process, forward and compressions one after the other each round, the compressions in a new order; medians. CPU seconds
say more than seconds of the clock on a machine with other work.

SmolLM2-135M on two cores of an AMD EPYC (Zen 1, AVX2), torch 2.13.0+cpu, numba 0.68.1, --windows 2 --rounds 3,
OMP_WAIT_POLICY=passive, other work on the machine (so that CPU seconds count), 2026-11-24:

                            --threads 1              --threads 2
                       rows/s  of CPU s         rows/s  of CPU s
    forward                61     1.000             62     1.000
    default, numba       2033     0.029           2121     0.028
    default, torch        629     0.097            596     0.101
    sampled at 1, numba 4231     0.014           4560     0.014
    sampled at 1, torch 1027     0.059            881     0.066

Before 2026-11-26 the compiler chose the order of the loops' sums, and so their bits. Written down in 16 lanes they
take, of the CPU time before, 0.75 (default) and 0.87 (sample at T = 1) on the AVX-512 of another EPYC, 0.93 and 0.87
where only AVX2 is allowed there (NUMBA_CPU_NAME=haswell); 512 rows, both versions in turn, medians of 6 to 8.

Of the default's 240 µs per row with numba about 100 are two exponentials, 70 the moments at seven nodes, 30 the maxima
(memory), the rest the candidates and the draw. The same passes under torch.compile take 290 µs for the moments and 120
for the survey before candidates and draw, and 21 s to compile for every new shape.

On an Intel Xeon (AVX-512) whose forward pass makes 353 rows/s, torch's default took 0.161 and its sample at T = 1 0.095
of the CPU seconds; the compiled loops have not been measured there.
"""

import argparse
import random
import statistics
import time
from collections.abc import Callable
from functools import partial
from pathlib import Path
from unittest.mock import patch

import torch
from real_rows import load_teacher, token_windows
from torch import Tensor

from kdcache.targets.compress import compress_to_arrays
from kdcache.targets.drawn import Drawn
from kdcache.targets.kind import RecordKind
from kdcache.targets.sampled import Sampled

BLOCK = 512
"""Rows per call, as a dump makes them."""
SPECS = {
    "default": Sampled(),
    "drawn": Drawn(),
}
CASES = [(name, method) for name in SPECS for method in ("numba", "torch")]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("teacher", type=Path)
    for name, default in {"threads": 2, "windows": 4, "length": 256, "rounds": 7}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    teacher = load_teacher(options.teacher)
    tokens = token_windows(options.teacher, options.windows * options.rounds, options.length)
    seconds: dict[str, list[tuple[float, float]]] = {name: [] for name in ("forward", *map(", ".join, CASES))}
    with torch.inference_mode():
        logits_PV = teacher(tokens[: options.windows], use_cache=False).logits.flatten(0, 1)
        for name, method in CASES:
            compress(logits_PV, SPECS[name], method)
        for tokens_BL in tokens.split(options.windows):
            logits_PV, taken = timed(lambda: teacher(tokens_BL, use_cache=False).logits.flatten(0, 1))  # noqa: B023
            seconds["forward"].append(taken)
            for name, method in random.sample(CASES, len(CASES)):
                taken = timed(partial(compress, logits_PV, SPECS[name], method))[1]
                seconds[f"{name}, {method}"].append(taken)
    rows = options.windows * options.length
    forward = medians(seconds["forward"])
    print(f"{rows} rows of {logits_PV.shape[1]} classes, {options.threads} threads")
    print(f"{'':<20}{'rows/s':>9}{'ratio':>8}{'of CPU s':>10}")
    for name, taken in seconds.items():
        clock, processor = medians(taken)
        print(f"{name:<20}{rows / clock:9.0f}{clock / forward[0]:8.3f}{processor / forward[1]:10.3f}")


def compress(logits_PV: Tensor, spec: RecordKind, method: str) -> None:
    with patch("kdcache.targets.sparse_rows.method_on", lambda device_type: method):
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
