"""Which units wait, who holds which, and which of them kill their workers: the bookkeeping of a scheduler, and no more.

Whoever dies may have been killed by any of the units that it held, so each of them is suspected: from then on it is
made alone. A unit whose worker died DEATHS times is blamed.
"""

from collections import Counter, defaultdict, deque
from collections.abc import Collection, Iterable

__all__ = ["DEATHS", "Units"]

DEATHS = 3


class Units:
    """Units of a dump, by their numbers, and workers, by theirs.

    Attributes:
        known: Whether anybody has said what is missing.
        made: How many shards each worker committed.
        deaths: How often a worker died that held a unit.
    """

    def __init__(self) -> None:
        self.known = False
        self.made: Counter[int] = Counter()
        self.deaths: Counter[int] = Counter()
        self._waiting: deque[int] = deque()
        self._held: defaultdict[int, set[int]] = defaultdict(set)

    @property
    def missing(self) -> int:
        """How many are not committed."""
        return len(self._waiting) + sum(map(len, self._held.values()))

    @property
    def done(self) -> bool:
        return self.known and not self.missing

    def found(self, missing: Collection[int]) -> None:
        """What a worker found missing when it began: of the units that wait, the others stand meanwhile."""
        kept = set(missing)
        self._waiting = deque(unit for unit in self._waiting if unit in kept) if self.known else deque(sorted(missing))
        self.known = True

    def next_for(self, worker: int) -> int | None:
        """A unit for a worker that has room for one; None where it has to wait, because a suspect is made alone."""
        held = self._held[worker]
        if not self._waiting or any(self.deaths[unit] for unit in held):
            return None
        if self.deaths[self._waiting[0]] and held:
            return None
        unit = self._waiting.popleft()
        held.add(unit)
        return unit

    def committed(self, worker: int, unit: int) -> None:
        """Its shard stands."""
        self._held[worker].discard(unit)
        self.made[worker] += 1

    def lost(self, worker: int) -> list[int]:
        """A worker died: its units wait again, for anybody. Those to blame, which killed too many."""
        units = sorted(self._held.pop(worker, ()))
        self.deaths.update(units)
        self._waiting.extendleft(reversed(units))
        return self.blamed(units)

    def blamed(self, units: Iterable[int]) -> list[int]:
        """Those of some units whose workers died too often."""
        return [unit for unit in units if self.deaths[unit] >= DEATHS]
