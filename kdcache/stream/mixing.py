"""Which cache of a mixture gives which sample of a run: pure functions of (weights, lanes).

The samples of a run are those of C lanes, as without a mixture (rota.py). The k-th of lane l is of the cache in whose
part of [0, 1) the number frac(k·α + φ(l)) falls: the parts are as long as the weights, α is the golden ratio (a
Kronecker sequence; Niederreiter 1992, doi 10.1137/1.9781611970081, chapter 3), and the φ of the lanes are 0, 1/C,
2/C, … in an order that spreads neighbouring lanes, and so those of a rank, over the interval.

- A global batch that takes one sample of each lane, or of every n-th lane, has its share of each cache to less than one
  sample, since the numbers of its lanes are evenly spaced. One that takes m of each lane has it to less than m.
- Over a run each lane has its share to a few samples, however long the run is: the deviation grows with the logarithm.
- How many samples a cache has given before an offset is Σ ⌊α·k + φ⌋ − Σ ⌊α·k + φ − part⌋: two sums that Euclid's
  algorithm gives in 46 steps, so any lane is entered anywhere without what comes before.

All numbers are whole 2³²nds, so nothing is rounded but the weights, to 2.3e-10 of their sum.

K caches, C lanes, N samples.
"""

import math
from collections.abc import Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import Any

import numpy as np

__all__ = ["LEAST_SHARE", "Mixing"]

ONE = 1 << 32
GOLDEN = 0x9E3779B9
"""The golden ratio's fraction of 2³²; odd."""
LEAST_SHARE = 1e-4
"""Of a cache in its mixture."""
DEVIATION = 8
"""By how many samples a lane is at most ahead of a cache's share or behind it: 4 were found in 4·10⁹ samples."""
LOOKED_AT = 1 << 18
"""Offsets of a lane, at one time."""


@dataclass(frozen=True)
class Mixing:
    """Attributes:
    edges: Where the part of each cache starts in [0, 2³²), and 2³² at the end, K + 1 whole numbers.
    lanes: C.
    """

    edges: tuple[int, ...]
    lanes: int

    @classmethod
    def of(cls, weights: Sequence[float], lanes: int) -> "Mixing":
        """weights: above 0, each at least LEAST_SHARE of their sum."""
        total = math.fsum(weights)
        sums = (math.fsum(weights[:count]) / total for count in range(len(weights) + 1))
        return cls(tuple(round(edge * ONE) for edge in sums), lanes)

    @property
    def alone(self) -> bool:
        """Whether there is one cache, which gives everything."""
        return len(self.edges) == 2

    def cache(self, lane: Any, offset: np.ndarray) -> np.ndarray:
        """Which cache gives the samples at some offsets of a lane, int64 [N]. lane: a number, or one for each."""
        numbers = (np.asarray(offset, np.uint64) * np.uint64(GOLDEN) + np.asarray(self._phase(lane), np.uint64)) % ONE
        return np.searchsorted(np.array(self.edges[1:-1], np.uint64), numbers, side="right").astype(np.int64)

    def taken(self, cache: int, lane: Any, offset: Any) -> Any:
        """How many of a lane's samples before an offset a cache gives.

        Args:
            cache: Its number.
            lane: A number, or int64 [N].
            offset: A number, or int64 [N].
        """
        if self.alone:
            return offset
        number = isinstance(offset, int) and isinstance(lane, int)
        count = offset if number else np.asarray(offset).astype(np.uint64)
        phase = self._phase(lane) if number else np.asarray(self._phase(lane)).astype(np.uint64)
        first, stop = self.edges[cache : cache + 2]
        below_first = _floor_sum(count, phase + (ONE - first) if number else phase + np.uint64(ONE - first))
        below_stop = _floor_sum(count, phase + (ONE - stop) if number else phase + np.uint64(ONE - stop))
        found = below_first - below_stop
        return found if number else found.astype(np.int64)

    def offsets(self, cache: int, lane: int, number: int, count: int) -> np.ndarray:
        """Where `count` samples of a cache are in a lane, from its number-th on: their offsets, ascending, int64."""
        if self.alone:
            return np.arange(number, number + count)
        share = (self.edges[cache + 1] - self.edges[cache]) / ONE
        start = max(int((number - DEVIATION) / share), 0)
        before, found = self.taken(cache, lane, start), np.zeros(0, np.int64)
        while before + len(found) < number + count:
            width = min(int((number + count - before - len(found) + DEVIATION) / share), LOOKED_AT)
            found = np.append(found, start + np.flatnonzero(self.cache(lane, np.arange(start, start + width)) == cache))
            start += width
        return found[number - before :][:count]

    def _phase(self, lane: Any) -> Any:
        """Whole multiples of 1 / C, rounded down to 2³²nds."""
        return lane * self._stride % self.lanes * ONE // self.lanes

    @cached_property
    def _stride(self) -> int:
        """The number next to C over the golden ratio that has no divisor in common with C."""
        near = round(self.lanes * GOLDEN / ONE)
        return min((n for n in range(1, self.lanes + 1) if math.gcd(n, self.lanes) == 1), key=lambda n: abs(n - near))


def _floor_sum(count: Any, start: Any) -> Any:
    """Σ ⌊(GOLDEN·k + start) / 2³²⌋ over k < count, by Euclid's algorithm; of arrays of uint64 modulo 2⁶⁴."""
    of = int if isinstance(count, int) else np.uint64
    step, one, total = of(GOLDEN), of(ONE), 0 * count
    while True:
        total = total + count * (count - 1 + (count == 0)) // 2 * (step // one) + count * (start // one)
        step, start = step % one, start % one
        if step == 0:
            return total
        top = step * count + start
        count, start = top // one, top % one
        step, one = one, step
