"""Course: when a run takes which of one cache's examples. Pure, and the same at every world size.

A lane of a run takes of the same lane of each cache (order.py): its n-th sample of a cache, counted over the whole run,
is the (n mod each)-th of the cache's epoch n div each. Of one cache alone an epoch is whole global batches, so `each`
leaves out what fills none. In a mixture each cache goes through all that its lanes hold, each lane by itself: it begins
the next epoch when it is through, a few samples before or after the other lanes.
"""

import heapq
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from typing import Any

import numpy as np

from kdcache.stream.by_length import GOLDEN, ByLength
from kdcache.stream.mixing import Mixing
from kdcache.stream.order import EpochPlan
from kdcache.stream.parts import Need
from kdcache.stream.rota import Rota

__all__ = ["Course", "MixedByLength"]


@dataclass(frozen=True)
class Course:
    """Numbers count a lane's samples of this cache over the whole run, steps those of the run, from 0.

    Attributes:
        cache: Its number in the mixture.
        mixing: Which cache gives which sample.
        rota: Which step takes which samples of which lanes.
        each: How many examples of a lane of the cache an epoch has.
    """

    cache: int
    mixing: Mixing
    rota: Rota
    each: int

    def number(self, lane: Any, step: int) -> Any:
        """That of the lane's first sample which this step or a later one takes. lane: a number, or int64 [N]."""
        return self.mixing.taken(self.cache, lane, self.rota.offset(lane, step))

    def step(self, lane: int, number: int) -> int:
        """The step that takes a sample."""
        return int(self.rota.step(lane, self.offsets(lane, number, 1)[0]))

    def offsets(self, lane: int, number: int, count: int) -> np.ndarray:
        """Where some samples that follow one another are in the lane of the run, int64."""
        return self.mixing.offsets(self.cache, lane, number, count)

    def needs(
        self, plan: Callable[[int], EpochPlan], lanes: range, begin: int, most: int | None = None
    ) -> Iterator[tuple[int, int, Need]]:
        """What lanes use from a step on, in the order of its first use, without an end.

        Args:
            plan: The cache's order in an epoch.
            lanes: Whose needs.
            begin: The first step.
            most: How many examples of a lane are needed at one time, by default all of a stretch.

        Yields:
            (the step that first uses it, the number of its first sample, what is needed).
        """

        def of(lane: int) -> Iterator[tuple[int, int, Need]]:
            epoch, offset = divmod(self.number(lane, begin), self.each)
            while True:
                for stretch in plan(epoch).stretches(lane, offset):
                    if stretch.first >= self.each:
                        break
                    here, there = max(stretch.first, offset), min(stretch.stop, self.each)
                    for first in range(here, there, most or there - here):
                        number = epoch * self.each + first
                        need = Need(stretch, first, min(first + (most or there - here), there))
                        yield self.step(lane, number), number, need
                epoch, offset = epoch + 1, 0

        return heapq.merge(*map(of, lanes), key=lambda found: found[0])


@dataclass(frozen=True)
class MixedByLength(ByLength):
    """Grouping by length in an epoch of a cache of a mixture: what shares a step is of like quantiles of its cache.

    Attributes:
        course: Of the cache.
        epoch: Of the cache.
        seed: Of the run, which decides where its steps begin.
    """

    course: Course
    epoch: int
    seed: int

    def turns(self, start: int, lane: int, first: int, count: int) -> np.ndarray:
        offsets = self.course.offsets(lane, self.epoch * self.course.each + first, count)
        return self.turns_at((self.seed + 1) * GOLDEN % (1 << 64), lane, offsets)
