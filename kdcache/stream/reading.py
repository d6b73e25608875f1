"""Blocks in use: threads read them in the order of need, each once while it is held, within an amount of memory.

The lanes' parts of blocks come merged by the offset at which they are first used. What the current steps use is read
whatever it takes; what comes later, while there is room. Threads read, check and decode and do nothing else; all else
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
from kdcache.stream.memory import Reading, decoded_bytes
from kdcache.stream.order import EpochPlan, Part

__all__ = ["BlocksInUse", "needs"]


def needs(plan: EpochPlan, lanes: range, first: int, stop: int, most: int | None = None) -> Iterator[Part]:
    """The parts that lanes use between two offsets, in the order of their first use; none longer than `most`."""

    def of(lane: int) -> Iterator[Part]:
        for part in plan.parts(lane, first) if first < stop else ():
            if part.first >= stop:
                return
            begin, end = max(part.first, first), min(part.stop, stop)
            for start in range(begin, end, most or end - begin):
                yield part.between(start, min(start + (most or end - begin), end))

    return heapq.merge(*map(of, lanes), key=lambda part: part.first)


@dataclass
class _Block:
    """A block that is read or held. users: parts that are not used up."""

    read: Future[Batch]
    bytes: int
    users: int = 0


@dataclass
class _Use:
    """A part and its block, or where blocks are not held a copy of its examples."""

    epoch: int
    part: Part
    block: _Block
    copied: bool

    @property
    def batch(self) -> Batch:
        """Waits for the block. Raises what reading it raised."""
        return self.block.read.result()

    @property
    def rows(self) -> np.ndarray:
        """Where the part's examples are in the batch, in the order of use."""
        return np.arange(len(self.part.indices)) if self.copied else self.part.indices

    @cached_property
    def ordered(self) -> Batch:
        """The part's examples in the order of use."""
        return self.batch if self.copied else self.batch.take(self.part.indices)

    def run(self, rows: range, ordered: bool) -> Run:
        """Some consecutive ones of the part's examples; `ordered`: of all of them, copied once."""
        if ordered or self.copied:
            return Run(self.ordered, rows.start, rows.stop)
        return Run(self.batch.take(self.rows[rows.start : rows.stop]), 0, len(rows))

    @cached_property
    def picked(self) -> Picked:
        return Picked(self.batch, self.rows)


class BlocksInUse:
    """What a rank's lanes use now and next.

    Args:
        cache: Where blocks are read.
        parts: (epoch, part) in the order of first use, without an end.
        reading: How much is held.
        pool: Threads that read.
    """

    def __init__(
        self, cache: Cache, parts: Iterator[tuple[int, Part]], reading: Reading, pool: ThreadPoolExecutor
    ) -> None:
        self._cache, self._parts, self._reading, self._pool = cache, parts, reading, pool
        self._next = next(parts)
        self._blocks: dict[tuple[int, int], _Block] = {}
        self._uses: dict[int, deque[_Use]] = {}
        self._bytes = self._parts_held = 0
        self._of_an_example: dict[int, float] = {}

    def require(self, epoch: int, offset: int) -> None:
        """Read what lanes use before this offset, and ahead while there is room."""
        while (self._next[0], self._next[1].first) < (epoch, offset):
            self._start()
        while self._parts_held < self._reading.parts and self._bytes + self._cost(self._next[1]) <= self._reading.bytes:
            self._start()

    def examples(self, lane: int, first: int, stop: int) -> list[tuple[Picked, int]]:
        """The examples of a lane at these offsets, required before. Raises what reading them raised."""
        return [(use.picked, row) for use, rows in self._between(lane, first, stop) for row in rows]

    def runs(self, lane: int, first: int, stop: int) -> list[Run]:
        """The same, for `joined`: some consecutive ones of a batch for each block that they are in."""
        return [use.run(rows, self._reading.ordered) for use, rows in self._between(lane, first, stop)]

    def _between(self, lane: int, first: int, stop: int) -> Iterator[tuple["_Use", range]]:
        for use in self._uses[lane]:
            begin, end = max(first, use.part.first), min(stop, use.part.stop)
            yield use, range(begin - use.part.first, end - use.part.first)
            if end == stop:
                return
        raise AssertionError(f"offset {stop} of lane {lane} was not required")

    def used(self, epoch: int, offset: int) -> None:
        """Forget what lanes used before this offset."""
        for uses in self._uses.values():
            while uses and (uses[0].epoch, uses[0].part.stop) <= (epoch, offset):
                self._forget(uses.popleft())

    def _start(self) -> None:
        epoch, part = self._next
        copied = self._reading.offsets is not None
        block = None if copied else self._blocks.get((part.shard, part.block))
        if block is None:
            read = self._pool.submit(_read, self._cache, part, copied)
            block = _Block(read, self._cost(part))
            self._bytes += block.bytes
            if not copied:
                self._blocks[part.shard, part.block] = block
        block.users += 1
        self._parts_held += 1
        self._uses.setdefault(part.lane, deque()).append(_Use(epoch, part, block, copied))
        self._next = next(self._parts)

    def _forget(self, use: _Use) -> None:
        self._parts_held -= 1
        use.block.users -= 1
        if use.block.users == 0 and not self._reading.keep:
            self._bytes -= use.block.bytes
            if not use.copied:
                del self._blocks[use.part.shard, use.part.block]

    def _cost(self, part: Part) -> int:
        """Memory that reading this part takes beyond what is held."""
        shard = part.shard
        if self._reading.offsets is not None:
            examples = len(part.indices)
        elif (shard, part.block) in self._blocks:
            return 0
        else:
            size = int(self._cache.block_examples[shard])
            examples = min(size, int(self._cache.shard_examples[shard]) - part.block * size)
        if shard not in self._of_an_example:
            manifest = self._cache.manifest
            whole = decoded_bytes(manifest.header.fields, manifest.shards[shard])
            self._of_an_example[shard] = whole / int(self._cache.shard_examples[shard])
        return int(examples * self._of_an_example[shard]) * (2 if self._reading.ordered else 1)


def _read(cache: Cache, part: Part, copied: bool) -> Batch:
    block = cache.read_block(part.shard, part.block)
    return block.take(part.indices) if copied else block
