"""How many steps are read as one block, and how many blocks ahead, in a given amount of memory. Pure.

The examples of a block are taken out of every shard that holds some of them when that shard is read, together with
those for the next `ahead` blocks; the shard itself is then dropped. So memory holds what coming steps use and nothing
else, whatever the number of lanes and the size of a shard, and a shard is read about once an epoch as long as the
steps that use it lie within `ahead` blocks, otherwise once for each such stretch.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdcache.store.backend import array_fields
from kdcache.store.manifest import CommitRecord, Totals
from kdcache.targets.fields import Field

__all__ = ["Reading", "decoded_bytes", "plan_reading"]

AHEAD = 8


@dataclass(frozen=True)
class Reading:
    """steps: in a block. ahead: blocks after the current one whose examples are kept."""

    steps: int
    ahead: int


def plan_reading(memory: int, *, read_bytes: int, step_bytes: int, steps_per_epoch: int, threads: int) -> Reading:
    """Blocks of at most 1/8 of an epoch, as large and as many as `memory` bytes hold.

    Room is left for the current block twice (its parts and their concatenation) and for one read a thread, read_bytes
    at its peak. With too little memory for that: single steps, one ahead.
    """
    free = max(memory - threads * read_bytes, 0)
    fitting = free // max((AHEAD + 2) * step_bytes, 1)
    steps = max(1, min(fitting, math.ceil(steps_per_epoch / AHEAD)))
    ahead = free // max(steps * step_bytes, 1) - 2
    return Reading(steps, max(1, min(ahead, math.ceil(steps_per_epoch / steps))))


def decoded_bytes(fields: Sequence[Field], counts: CommitRecord | Totals) -> int:
    """Memory of these examples as a Batch; documents, which no record counts, as one per example."""
    number = {
        "example": counts.examples,
        "token": counts.tokens,
        "document": counts.examples,
        "position": counts.positions,
        "entry": counts.entries,
    }
    return sum(
        number[field.level] * math.prod(field.shape) * np.dtype(field.dtype).itemsize for field in array_fields(fields)
    )
