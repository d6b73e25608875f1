"""How long planning an epoch takes, by the number of shards: CPU time of EpochPlan and of what it gives lanes."""

import time

import numpy as np

from kdcache.stream.order import EpochPlan
from tests.bench.part import Part, Rows
from tests.bench.tables import figure, table

SHARDS = (1_500, 15_000, 150_000)
LANES, EXAMPLES, BLOCKS = 256, 667, 16


def run(quick: bool) -> Rows:
    return {str(shards): _planned(shards) for shards in (SHARDS[:1] if quick else SHARDS)}


def _planned(shards: int) -> Rows:
    """Milliseconds for the plan and for the first parts of all lanes, microseconds for each further part."""
    sizes, blocks = np.full(shards, EXAMPLES, np.int64), np.full(shards, BLOCKS, np.int64)
    started = time.process_time()
    plan = EpochPlan(sizes, blocks, seed=0, epoch=0, lanes=LANES)
    planned = time.process_time()
    lanes = [plan.stretches(lane) for lane in range(LANES)]
    for lane in lanes:
        next(lane)
    begun = time.process_time()
    for lane in lanes * 10:
        next(lane)
    walked = time.process_time()
    return {
        "plan_ms": 1e3 * (planned - started),
        "first_ms": 1e3 * (begun - planned),
        "part_us": 1e6 * (walked - begun) / (10 * LANES),
    }


def render(rows: Rows) -> str:
    header = ["shards", "examples", "plan, ms", f"first parts of {LANES} lanes, ms", "each further part, µs"]
    lines = [
        [f"{int(shards):,}", f"{int(shards) * EXAMPLES:,}", *map(figure, found.values())]
        for shards, found in rows.items()
    ]
    return f"CPU time; shards of {EXAMPLES} examples in {BLOCKS} blocks.\n\n" + table(header, lines)


PART = Part(name="planning", title="Planning an epoch", minutes=0.2, run=run, render=render)
