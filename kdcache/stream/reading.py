"""Blocks in use: threads read them in the order of need, each once while it is held, within an amount of memory.

What the lanes need comes merged by the step at which it is first used. What the current steps use is read whatever it
takes; what comes later, while there is room. Threads read, check and decode and do nothing else; all else
happens in the one thread that calls, so there are no locks, and a read that failed raises its error where the block is
used, whatever the timing.
"""

import heapq
from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kdcache.store.batch import Batch
from kdcache.store.cache import Cache
from kdcache.store.gather import Picked, Run
from kdcache.store.limits import array_bytes
from kdcache.stream.memory import Reading
from kdcache.stream.order import EpochPlan
from kdcache.stream.parts import Need, Part, Source, lengths_of, taken
from kdcache.stream.rota import Rota

__all__ = ["BlocksInUse", "needs"]


def needs(
    plan: EpochPlan, rota: Rota, lanes: range, begin: int, end: int, most: int | None = None
) -> Iterator[tuple[int, Need]]:
    """(first step, what lanes use) between two steps, in the order of its first use; none longer than `most`."""

    def of(lane: int) -> Iterator[tuple[int, Need]]:
        first, stop = rota.offset(lane, begin), rota.offset(lane, end)
        for stretch in plan.stretches(lane, first) if first < stop else ():
            if stretch.first >= stop:
                return
            here, there = max(stretch.first, first), min(stretch.stop, stop)
            for start in range(here, there, most or there - here):
                yield rota.step(lane, start), Need(stretch, start, min(start + (most or there - here), there))

    return heapq.merge(*map(of, lanes), key=lambda found: found[0])


@dataclass
class _Block:
    """A block that is read or held. users: stretches that are not used up."""

    read: Future[Batch]
    bytes: int
    users: int = 0


@dataclass
class _Use:
    """What is needed, and the blocks of its stretch, or where blocks are not held one with a copy of its examples.

    What waits for a block raises what reading it raised.
    """

    epoch: int
    need: Need
    blocks: list[_Block]
    copied: bool

    @cached_property
    def sources(self) -> list[Source]:
        if self.copied:
            return [(self.blocks[0].read.result(), np.arange(self.need.stop - self.need.first))]
        parts = self.need.stretch.parts
        return [(block.read.result(), part.indices) for block, part in zip(self.blocks, parts, strict=True)]

    @cached_property
    def rows(self) -> np.ndarray:
        """Which example of the sources, end to end, comes at each offset."""
        return self.sources[0][1] if self.copied else self.need.rows(lambda: lengths_of(self.sources))

    @cached_property
    def ordered(self) -> Batch:
        """The examples in the order of use."""
        return self.sources[0][0] if self.copied else taken(self.sources, self.rows)

    def run(self, places: slice, ordered: bool) -> Run:
        """The examples at some offsets; `ordered`: of all of them, copied once."""
        if ordered or self.copied:
            return Run(self.ordered, places.start, places.stop)
        batch = taken(self.sources, self.rows[places])
        return Run(batch, 0, len(batch))

    @cached_property
    def picked(self) -> list[tuple[Picked, int]]:
        """The example at each offset."""
        found = [Picked(batch, indices) for batch, indices in self.sources]
        every = [(picked, row) for picked in found for row in range(len(picked))]
        return [every[row] for row in self.rows]


class BlocksInUse:
    """What a rank's lanes use now and next.

    Args:
        cache: Where blocks are read.
        needs: (epoch, first step, what is needed) in the order of first use, without an end.
        rota: Which step takes what.
        reading: How much is held.
        pool: Threads that read.
    """

    def __init__(
        self,
        cache: Cache,
        needs: Iterator[tuple[int, int, Need]],
        rota: Rota,
        reading: Reading,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._cache, self._needs, self._rota, self._reading, self._pool = cache, needs, rota, reading, pool
        self._next = next(needs)
        self._blocks: dict[tuple[int, int], _Block] = {}
        self._uses: dict[int, deque[_Use]] = {}
        self._bytes = self._parts_held = 0
        self._of_an_example: dict[int, float] = {}

    def require(self, epoch: int, step: int) -> None:
        """Read what steps before this one use, and ahead while there is room."""
        while self._next[:2] < (epoch, step):
            self._start()
        while self._parts_held < self._reading.parts and self._bytes + self._cost(self._next[2]) <= self._reading.bytes:
            self._start()

    def examples(self, lane: int, first: int, stop: int) -> list[tuple[Picked, int]]:
        """The examples of a lane at these offsets, required before. Raises what reading them raised."""
        return [found for use, places in self._between(lane, first, stop) for found in use.picked[places]]

    def runs(self, lane: int, first: int, stop: int) -> list[Run]:
        """The same, for `joined`: some consecutive ones of a batch for each stretch that they are in."""
        return [use.run(places, self._reading.ordered) for use, places in self._between(lane, first, stop)]

    def _between(self, lane: int, first: int, stop: int) -> Iterator[tuple["_Use", slice]]:
        for use in self._uses[lane]:
            begin, end = max(first, use.need.first), min(stop, use.need.stop)
            yield use, slice(begin - use.need.first, end - use.need.first)
            if end == stop:
                return
        raise AssertionError(f"offset {stop} of lane {lane} was not required")

    def used(self, epoch: int, step: int) -> None:
        """Forget what no step but those before this one uses."""
        for lane, uses in self._uses.items():
            offset = self._rota.offset(lane, step)
            while uses and (uses[0].epoch, uses[0].need.stop) <= (epoch, offset):
                self._forget(uses.popleft())

    def _start(self) -> None:
        epoch, _, need = self._next
        if self._reading.offsets is not None:
            block = _Block(self._pool.submit(_copy, self._cache, need), self._cost(need))
            self._bytes += block.bytes
            use = _Use(epoch, need, [block], copied=True)
        else:
            use = _Use(epoch, need, [self._held(part) for part in need.stretch.parts], copied=False)
        for block in use.blocks:
            block.users += 1
        self._parts_held += len(use.blocks)
        self._uses.setdefault(need.stretch.lane, deque()).append(use)
        self._next = next(self._needs)

    def _held(self, part: Part) -> _Block:
        key = part.shard, part.block
        if key not in self._blocks:
            cost = self._cost_of(part)
            self._blocks[key] = _Block(self._pool.submit(self._cache.read_block, *key), cost)
            self._bytes += cost
        return self._blocks[key]

    def _forget(self, use: _Use) -> None:
        self._parts_held -= len(use.blocks)
        for block in use.blocks:
            block.users -= 1
        if self._reading.keep:
            return
        self._bytes -= sum(block.bytes for block in use.blocks if block.users == 0)
        if not use.copied:
            for block, part in zip(use.blocks, use.need.stretch.parts, strict=True):
                if block.users == 0:
                    del self._blocks[part.shard, part.block]

    def _cost(self, need: Need) -> int:
        """Memory that reading this takes beyond what is held."""
        parts = need.stretch.parts
        if self._reading.offsets is not None:
            return int((need.stop - need.first) * max(self._example_bytes(part.shard) for part in parts))
        return sum(self._cost_of(part) for part in parts if (part.shard, part.block) not in self._blocks)

    def _cost_of(self, part: Part) -> int:
        """Memory of the whole block, and of its examples in the order of use."""
        size = int(self._cache.block_examples[part.shard])
        examples = min(size, int(self._cache.shard_examples[part.shard]) - part.block * size)
        return int(examples * self._example_bytes(part.shard)) * (2 if self._reading.ordered else 1)

    def _example_bytes(self, shard: int) -> float:
        if shard not in self._of_an_example:
            manifest = self._cache.manifest
            whole = array_bytes(manifest.header.fields, manifest.shards.sizes(shard))
            self._of_an_example[shard] = whole / int(self._cache.shard_examples[shard])
        return self._of_an_example[shard]


def _copy(cache: Cache, need: Need) -> Batch:
    """The examples that are needed, in the order of their use."""
    sources = [(cache.read_block(part.shard, part.block), part.indices) for part in need.stretch.parts]
    return taken(sources, need.rows(lambda: lengths_of(sources)))
