"""Blocks in use: threads read them in the order of need, each once while it is held, within an amount of memory.

What the lanes need comes merged by the step at which it is first used. What the current steps use is read whatever it
takes; what comes later, while there is room. Threads read, check and decode and do nothing else; all else
happens in the one thread that calls, so there are no locks, and a read that failed raises its error where the block is
used, whatever the timing.
"""

import heapq
from collections import deque
from collections.abc import Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from functools import cached_property

import numpy as np

from kdcache.store.cache import Cache
from kdcache.store.gather import Chosen, Origin
from kdcache.store.limits import array_bytes
from kdcache.stream.memory import Reading
from kdcache.stream.order import EpochPlan
from kdcache.stream.parts import Need, Part
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

    read: Future[Origin]
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
    def origins(self) -> list[Origin]:
        return [block.read.result() for block in self.blocks]

    @cached_property
    def chosen(self) -> tuple[np.ndarray, np.ndarray]:
        """Of the example at each offset: which of the origins has it, and its number there."""
        if self.copied:
            rows = np.arange(self.need.stop - self.need.first)
            return np.zeros_like(rows), rows
        return _rows(self.need, self.origins)


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

    def examples(self, ranges: Iterable[tuple[int, int, int]]) -> Chosen:
        """The examples between two offsets of each (lane, offset, offset), required before, end to end.

        Raises what reading them raised.
        """
        origins: list[Origin] = []
        which, rows = [], []
        for lane, first, stop in ranges:
            for use, places in self._between(lane, first, stop) if first < stop else ():
                of, row = use.chosen
                which.append(of[places] + len(origins))
                rows.append(row[places])
                origins += use.origins
        return Chosen(origins, np.concatenate(which), np.concatenate(rows))

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
            self._blocks[key] = _Block(self._pool.submit(_read, self._cache, *key), cost)
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
        """Memory of the whole block."""
        size = int(self._cache.block_examples[part.shard])
        examples = min(size, int(self._cache.shard_examples[part.shard]) - part.block * size)
        return int(examples * self._example_bytes(part.shard))

    def _example_bytes(self, shard: int) -> float:
        if shard not in self._of_an_example:
            manifest = self._cache.manifest
            whole = array_bytes(manifest.header.fields, manifest.shards.sizes(shard))
            self._of_an_example[shard] = whole / int(self._cache.shard_examples[shard])
        return self._of_an_example[shard]


def _read(cache: Cache, shard: int, block: int) -> Origin:
    return Origin(cache.read_block(shard, block))


def _copy(cache: Cache, need: Need) -> Origin:
    """The examples that are needed, in the order of their use."""
    origins = [_read(cache, part.shard, part.block) for part in need.stretch.parts]
    return Origin(Chosen(origins, *_rows(need, origins)).copied())


def _rows(need: Need, origins: list[Origin]) -> tuple[np.ndarray, np.ndarray]:
    """Of each example that is needed: which of the blocks of the stretch has it, and its number there."""
    parts = need.stretch.parts
    which = np.repeat(np.arange(len(parts)), [len(part.indices) for part in parts])
    rows = np.concatenate([part.indices for part in parts])
    order = need.rows(lambda: Chosen(origins, which, rows).lengths)
    return which[order], rows[order]
