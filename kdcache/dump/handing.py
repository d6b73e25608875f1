"""Who gives a process its units, and who is told what becomes of them.

A rank makes its own share (`OwnShare`), whatever the others do, and shows how far it is. A worker of a scheduler
(kdcache.dump.schedulers) is given one unit after the other. What is done with a unit is the same.
"""

import time
from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, contextmanager

from kdcache.launcher import World
from kdcache.progress import Progress

__all__ = ["Handing", "OwnShare"]


class Handing(ABC):
    """Gives units to the one process that has it.

    Attributes:
        name: Of the process, as it is spoken of.
        speaks_as: What its lines about its own shards begin with.
        finishes: Whether this process finishes the cache when there is nothing more to take.
    """

    name: str
    speaks_as = ""
    finishes = True

    @abstractmethod
    def share(self, num_units: int) -> range:
        """Of so many units, those that this process may be given."""

    @abstractmethod
    def opened(self, todo: Sequence[int], own: int) -> AbstractContextManager[None]:
        """The time in which units are made. todo: those of this process' share, of `own`, that do not stand."""

    @abstractmethod
    def take(self) -> int | None:
        """The next unit, which may be waited for; None when there are no more. A thread ahead of the teacher asks."""

    @abstractmethod
    def computed(self, unit: int, tokens: int) -> None:
        """The teacher has read so many more tokens of a unit."""

    @abstractmethod
    def committed(self, unit: int) -> None:
        """A shard stands. Called in the thread that wrote it."""

    @abstractmethod
    def close(self) -> None:
        """There is nothing more to take, for whoever asks or waits; said by any thread, also where one failed."""


class OwnShare(Handing):
    """A rank's: every W-th unit, W being the world size."""

    def __init__(self, world: World) -> None:
        self.world, self.name = world, f"{world.word} {world.rank} of {world.size}"

    def share(self, num_units: int) -> range:
        return self.world.share(num_units)

    @contextmanager
    def opened(self, todo: Sequence[int], own: int) -> Iterator[None]:
        rank, several = self.world.rank, self.world.size > 1
        self._units, self._tokens, self._start = iter(todo), 0, time.monotonic()
        title = f"{self.world.word} {rank}" if several else "dump"
        with Progress(own, "shards", title, done=own - len(todo), quiet=rank > 0) as self._progress:
            yield

    def take(self) -> int | None:
        return next(self._units, None)

    def computed(self, unit: int, tokens: int) -> None:
        self._tokens += tokens
        rate = self._tokens / (time.monotonic() - self._start)
        self._progress.set(**{"tok/s": f"{rate:,.0f}", "shard": f"{unit:06d}"})

    def committed(self, unit: int) -> None:
        self._progress.advance()

    def close(self) -> None:
        self._units = iter(())
