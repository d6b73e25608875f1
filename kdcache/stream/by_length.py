"""Examples of like length side by side, so that little of a micro-batch is padding. Pure functions.

Inside a step: a rank's examples are cut into micro-batches in the order of their lengths, always. Only the rounding of
sums changes, since a loss is a sum over the step.

Over the steps, where stream.length_groups is set: each step has a number u between 0 and 1, the fraction of its number
times the golden ratio (a Kronecker sequence; Niederreiter 1992, doi 10.1137/1.9781611970081, chapter 3) from a start by
chance in each epoch. Any run of steps has numbers spread evenly, and no trend. The examples of a stretch, some blocks
that a lane uses one after the other, go to the stretch's places by rank: the shortest to the least u. So all lanes give
about the u-quantile of lengths at the same time, each out of blocks that it reads itself, and none needs to know of
another's: a global batch is a function of the order and of its examples' lengths, whatever the world size. With F
groups the samples of a step take u, u + 1/F, u + 2/F, … in turn: it has all lengths again, in F groups of like length.

How near the lanes come to one length is a matter of how many examples are sorted together, n of a stretch: their ranks
are off by about 1 / 2√n of the quantiles.

What it costs in randomness: which of a stretch's examples comes in which of its steps is decided by its length and no
more by a shuffle; which blocks are in a stretch, when it comes, and what other lanes have at that time is drawn anew
each epoch. Examples of like length meet more often. With 1 group a step has one length, and as its loss is a mean over
its positions, those of short examples count more than in mixed batches. How much the tokens of a step vary says how far
that goes: of log-normal lengths (σ = .8) by 87% of their mean with 1 group, 30% with 4, 18% with 8, and by chance 12%
at a global batch of 64 and 6% at 256. Students of two epochs ended at a held-out loss .024 ± .016 nats above that of
chance with 1 group, and .005 ± .010 below it with 8 (tests/bench/lengths.py, four paired seeds).
"""

from dataclasses import dataclass

import numpy as np

from kdcache.stream.rota import Rota

__all__ = ["ByLength", "longest_first", "shortest_to_least"]

GOLDEN = 0x9E3779B97F4A7C15
"""The golden ratio's fraction of 2⁶⁴."""


@dataclass(frozen=True)
class ByLength:
    """Grouping by length.

    Attributes:
        groups: Into how many groups of like length a global batch falls.
        blocks: Over how many blocks of a lane its examples are sorted.
        rota: Which step takes which examples.
    """

    groups: int
    blocks: int
    rota: Rota

    def turns(self, start: int, lane: int, first: int, count: int) -> np.ndarray:
        """Which quantiles of the lengths some places of a lane take, as fractions of 2⁶⁴, uint64 [count].

        Args:
            start: That of the epoch's first step.
            lane: Whose places.
            first: The lane's offset of the first.
            count: How many.
        """
        return self.turns_at(start, lane, np.arange(first, first + count))

    def turns_at(self, start: int, lane: int, offsets: np.ndarray) -> np.ndarray:
        """The same of places that are anywhere. offsets: those of the lane, int64."""
        places, of_step = self.rota.place(lane, offsets)
        groups = (places + of_step * self.rota.per_lane) % self.groups
        steps = self.rota.step(lane, offsets).astype(np.uint64)
        apart = np.uint64((1 << 64) // self.groups % (1 << 64))
        return np.uint64(start) + steps * np.uint64(GOLDEN) + groups.astype(np.uint64) * apart


def shortest_to_least(lengths: np.ndarray, turns: np.ndarray) -> np.ndarray:
    """Which of a stretch's examples comes at each of its places: the shortest where the turn is least, int64.

    Where all are of one length, as windows of packed text are, all stay in their places.
    """
    if len(lengths) and lengths.min() == lengths.max():
        return np.arange(len(lengths))
    order = np.empty(len(lengths), np.int64)
    order[np.argsort(turns, kind="stable")] = np.argsort(lengths, kind="stable")
    return order


def longest_first(lengths: np.ndarray) -> np.ndarray:
    """The order in which a step's examples are cut into micro-batches, by the lengths along the last axis.

    Examples of one length keep their order, so that windows of packed text do. Most memory is needed at once, in the
    first micro-batch, and all ranks have their long ones at the same time.
    """
    return np.argsort(-lengths, axis=-1, kind="stable")
