"""Blocks in use: threads read them in the order of need, each once while it is held, within an amount of memory.

What the lanes need comes merged by the step at which it is first used. What the current steps use is read whatever it
takes; what comes later, while there is room. Threads read, check and decode and do nothing else; all else
happens in the one thread that calls, so there are no locks, and a read that failed raises its error where the block is
used, whatever the timing.
"""

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
from kdcache.stream.parts import Need, Part

__all__ = ["BlocksInUse"]


@dataclass
class _Block:
    """A block that is read or held. users: stretches that are not used up."""

    read: Future[Origin]
    bytes: int
    users: int = 0


@dataclass
class _Use:
    """What is needed, and the blocks of its stretch, or where blocks are not held one with a copy of its examples.

    number: that of its first sample, of the lane's in the run.
    What waits for a block raises what reading it raised.
    """

    number: int
    need: Need
    blocks: list[_Block]
    copied: bool

    @property
    def stop(self) -> int:
        """One past the number of its last sample."""
        return self.number + self.need.stop - self.need.first

    @cached_property
    def origins(self) -> list[Origin]:
        return [block.read.result() for block in self.blocks]

    @cached_property
    def chosen(self) -> tuple[np.ndarray, np.ndarray]:
        """Of each example that is needed: which of the origins has it, and its number there."""
        if self.copied:
            rows = np.arange(self.need.stop - self.need.first)
            return np.zeros_like(rows), rows
        return _rows(self.need, self.origins)


class BlocksInUse:
    """What a rank's lanes use of a cache now and next. Numbers are those of course.py.

    Args:
        cache: Where blocks are read.
        needs: (first step, number of the first sample, what is needed) in the order of first use, without an end.
        reading: How much is held.
        pool: Threads that read.
    """

    def __init__(
        self,
        cache: Cache,
        needs: Iterator[tuple[int, int, Need]],
        reading: Reading,
        pool: ThreadPoolExecutor,
    ) -> None:
        self._cache, self._needs, self._reading, self._pool = cache, needs, reading, pool
        self._next = next(needs)
        self._blocks: dict[tuple[int, int], _Block] = {}
        self._uses: dict[int, deque[_Use]] = {}
        self._bytes = self._parts_held = 0
        self._of_an_example: dict[int, float] = {}

    def require(self, step: int) -> None:
        """Read what steps before this one use."""
        while self._next[0] < step:
            self._start()

    def read_ahead(self) -> None:
        """Read what comes after that, while there is room."""
        while self._parts_held < self._reading.parts and self._bytes + self._cost(self._next[2]) <= self._reading.bytes:
            self._start()

    def examples(self, ranges: Iterable[tuple[int, int, int]]) -> tuple[list[Origin], np.ndarray, np.ndarray]:
        """The examples between two numbers of each (lane, number, number), required before, end to end.

        Returns:
            Batches, and of each example which has it and its number there, int64.

        Raises:
            KdcacheError: What reading them raised.
        """
        origins: list[Origin] = []
        which, rows = [np.zeros(0, np.int64)], [np.zeros(0, np.int64)]
        for lane, first, stop in ranges:
            for use, places in self._between(lane, first, stop) if first < stop else ():
                of, row = use.chosen
                which.append(of[places] + len(origins))
                rows.append(row[places])
                origins += use.origins
        return origins, np.concatenate(which), np.concatenate(rows)

    def _between(self, lane: int, first: int, stop: int) -> Iterator[tuple["_Use", slice]]:
        for use in self._uses[lane]:
            begin, end = max(first, use.number), min(stop, use.stop)
            yield use, slice(begin - use.number, end - use.number)
            if end == stop:
                return
        raise AssertionError(f"number {stop} of lane {lane} was not required")

    def used(self, stops: Iterable[tuple[int, int]]) -> None:
        """Forget what is before a number of each (lane, number)."""
        for lane, number in stops:
            uses = self._uses.get(lane)
            while uses and uses[0].stop <= number:
                self._forget(uses.popleft())

    def _start(self) -> None:
        _, number, need = self._next
        if self._reading.offsets is not None:
            block = _Block(self._pool.submit(_copy, self._cache, need), self._cost(need))
            self._bytes += block.bytes
            use = _Use(number, need, [block], copied=True)
        else:
            use = _Use(number, need, [self._held(part) for part in need.stretch.parts], copied=False)
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
