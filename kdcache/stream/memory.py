"""How much of each lane is read at once, and how far ahead, in a given amount of memory. Pure.

What a lane reads is held until its last use: a block for the part that the lane owns, and about one more block ahead
for each lane. Where memory holds less than the blocks that the lanes use at one time, the examples of a few steps are
copied out of a block and the block is dropped, to be read again for the next ones: any amount of memory will do, at the
price of reading more. Where memory holds the cache twice, each block is read once in a run.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass

import numpy as np

from kdcache.store.backend import array_fields
from kdcache.store.manifest import Totals
from kdcache.stream.rota import Rota
from kdcache.targets.fields import Field

__all__ = ["Reading", "Sizes", "decoded_bytes", "plan_reading", "shares_of_memory"]

STEP_BYTES = 8_000_000
MOST_STEPS = 128


@dataclass(frozen=True)
class Reading:
    """steps: assembled at once. parts, bytes: the most that is in use or read ahead. offsets: of a lane whose examples
    are copied out of a block that is then dropped; None where blocks are held. keep: no block is ever dropped."""

    steps: int
    parts: int
    bytes: int
    offsets: int | None
    keep: bool


@dataclass(frozen=True)
class Sizes:
    """What reading costs. lanes: of the rank. blocks: of the cache. block_bytes: of one when decoded. block_examples:
    in it. rota: which step takes what of each lane. stretch: blocks of a lane that are in use at one time.
    threads: that read, each with a block in the making that takes three times its size. share: of a step's examples
    that come from this cache."""

    lanes: int
    blocks: int
    block_bytes: int
    block_examples: float
    rota: Rota
    stretch: int
    threads: int
    share: float = 1.0

    @property
    def step_bytes(self) -> int:
        """The rank's part of a step that comes from this cache."""
        examples = self.share * (self.lanes // self.rota.teams * self.rota.per_lane)
        return math.ceil(examples * self.block_bytes / self.block_examples)

    @property
    def parts(self) -> int:
        """Of blocks, that the lanes are in during one step."""
        return math.ceil(self.lanes * (self.stretch + (self.rota.per_lane - 1) / self.block_examples))


def shares_of_memory(memory: int, caches: Sequence[Sizes]) -> list[int]:
    """Of several caches that are read side by side, in proportion to the blocks that their lanes are in."""
    wanted = [(c.threads * (2 + c.stretch) + 1.25 * min(c.parts, c.blocks)) * c.block_bytes for c in caches]
    return [int(memory * (one / sum(wanted))) for one in wanted]


def plan_reading(memory: int, sizes: Sizes) -> Reading:
    """What is held in so many bytes."""
    steps = max(1, min(MOST_STEPS, min(STEP_BYTES, memory // 16) // sizes.step_bytes))
    free = max(memory - sizes.threads * (2 + sizes.stretch) * sizes.block_bytes - 3 * steps * sizes.step_bytes, 0)
    if free >= 1.25 * min(sizes.parts, sizes.blocks) * sizes.block_bytes:
        return Reading(steps, 2 * sizes.parts, free, None, sizes.blocks * sizes.block_bytes <= free // 2)
    offsets = max(1, free // (2 * sizes.step_bytes * sizes.rota.teams)) * sizes.rota.per_lane
    offsets = max(1, int(sizes.share * offsets))
    return Reading(1, 2 * sizes.parts, free, offsets, keep=False)


def decoded_bytes(fields: Sequence[Field], counts: Totals) -> int:
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
