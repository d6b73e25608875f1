"""The batches of an evaluation: of like length, so that little is padded, and as many on every rank.

A rank's stretch of the cache is read in runs of up to 32 batches or 64 MB of decoded records, and each run is cut into
batches in the order of its examples' lengths. Figures are sums over positions, and predictions are put back in order.

P positions of a batch.
"""

from collections.abc import Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcache.launcher import World
from kdcache.store.batch import Batch
from kdcache.store.cache import Cache
from kdcache.stream.by_length import longest_first
from kdcache.stream.memory import decoded_bytes
from kdcache.students.collate import Collator, Inputs

__all__ = ["HeldOut", "held_out_batches"]

RUN_BATCHES = 32
RUN_BYTES = 64_000_000


@dataclass(frozen=True)
class HeldOut:
    """What is fed, and what it is of; batch None: of nothing.

    examples_P: The number in the cache of each position's example, int64.
    """

    inputs: Inputs
    batch: Batch | None
    examples_P: np.ndarray


def held_out_batches(
    cache: Cache, world: World, student: Any, batch_examples: int, max_examples: int | None
) -> Iterator[HeldOut]:
    """The batches of this rank, as many as every rank has."""
    collate = Collator(student, cache)
    total = len(cache) if max_examples is None else min(len(cache), max_examples)
    each = -(-total // (batch_examples * world.size))
    first = min(world.rank * each * batch_examples, total)
    last = min(first + each * batch_examples, total)
    run = _run_batches(cache, batch_examples) * batch_examples
    for start in range(first, last, run):
        examples = cache.read(start, min(start + run, last))
        order = longest_first(examples.lengths)
        for chosen in np.split(order, range(batch_examples, len(order), batch_examples)):
            batch = examples.take(chosen)
            counts = batch.arrays["position_counts"]
            yield HeldOut(collate(batch), batch, np.repeat(start + chosen, counts))
    for _ in range(each - -(-(last - first) // batch_examples)):
        yield HeldOut(collate(cache.read(0, 1)).without_positions(), None, np.zeros(0, np.int64))


def _run_batches(cache: Cache, batch_examples: int) -> int:
    example_bytes = decoded_bytes(cache.manifest.header.fields, cache.manifest.totals) / max(len(cache), 1)
    return max(1, min(RUN_BATCHES, int(RUN_BYTES / max(example_bytes * batch_examples, 1))))
