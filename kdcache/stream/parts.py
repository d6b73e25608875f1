"""Parts of blocks that a lane owns, stretches of them whose examples may be sorted together, and what is needed.

Pure.
"""

from collections.abc import Callable
from dataclasses import dataclass

import numpy as np

from kdcache.stream.by_length import shortest_to_least

__all__ = ["Need", "Part", "Stretch"]


@dataclass(frozen=True, slots=True)
class Part:
    """The part of a block that a lane owns.

    lane: Whose it is.
    first: The lane's offset of its first example.
    shard, block: Where the examples are.
    indices: Their numbers in the block, shuffled, int64.
    """

    lane: int
    first: int
    shard: int
    block: int
    indices: np.ndarray

    @property
    def stop(self) -> int:
        """One past the lane's offset of the last example."""
        return self.first + len(self.indices)


@dataclass(frozen=True, slots=True)
class Stretch:
    """Parts that follow one another in a lane, whose examples may be sorted together.

    parts: At least one, in the order of their offsets.
    turns: Which quantile of the lengths each place takes (by_length.py), uint64; None: examples stay where they are.
    """

    parts: tuple[Part, ...]
    turns: np.ndarray | None

    @property
    def lane(self) -> int:
        return self.parts[0].lane

    @property
    def first(self) -> int:
        """The lane's offset of the first example."""
        return self.parts[0].first

    @property
    def stop(self) -> int:
        return self.parts[-1].stop

    def order(self, lengths: Callable[[], np.ndarray]) -> np.ndarray:
        """Which example of the parts, end to end, comes at each place. lengths: gives those of all of them."""
        return np.arange(self.stop - self.first) if self.turns is None else shortest_to_least(lengths(), self.turns)


@dataclass(frozen=True)
class Need:
    """What a lane uses of a stretch: the examples at the lane's offsets from first to stop."""

    stretch: Stretch
    first: int
    stop: int

    def rows(self, lengths: Callable[[], np.ndarray]) -> np.ndarray:
        """Which of the stretch's examples they are. lengths: gives those of all of them."""
        return self.stretch.order(lengths)[self.first - self.stretch.first : self.stop - self.stretch.first]
