"""The order of examples in an epoch: pure functions of (sizes of shards and blocks, seed, epoch, lanes).

The line. The shards of a cache, permuted anew each epoch, are cut into groups of 32, and the blocks of a group are
permuted among themselves. End to end these blocks are a line of all examples that starts at a random one and wraps
around. Lane l of C is the l-th of C equal ranges of the line. Even lanes run forwards and odd ones backwards, so that
the two neighbours of a cut use the block that it runs through at the same time: one rank that owns both reads it once.
Inside the part of a block that a lane owns, examples are shuffled. A global batch of G examples takes g = G / C of each
lane; where C is greater, lanes take turns (rota.py). Ranks own whole lanes, so a global batch holds the same samples at
every world size that divides C and G, and a rank reads one stretch of the line: a block has one reader, or two where
the cut between two ranks runs through it.

The shuffle. Any C samples in a row are of C blocks or more, so that a corpus sorted by source or by label is mixed in
small batches, too. Two neighbours of the corpus that are in one block (of B examples, all in one lane) end up at most
⌈B / g⌉ steps apart in every epoch, (B + 1) / 3g on average, and share a step with the chance (g − 1) / (B − 1): never
where C ≥ G, the default up to 256.
Neighbours in different blocks end up a third of an epoch apart on average, or of their group where a lane holds whole
groups, and share a step about as often as any two examples, G / N of N. tests/stream/test_shuffle.py measures all of
it. Before blocks were permuted, a lane walked through whole shards and shuffled 256 examples in their order: neighbours
were up to 256 / g steps apart with g at least G / 64, and at 128 ≤ G shared a step with the chance (g − 1) / 255.

All of this is without grouping by length. With it (by_length.py), a lane's examples change places inside stretches of k
blocks of the line, by their lengths: neighbours in a block are at most ⌈k·B / g⌉ steps apart, and where g > 1 those of
like length share a step more often.

Randomness is counter-based (Philox-4x64, keyed by seed and epoch): any lane is entered anywhere without what comes
before. Raw draws are sorted, not given to a numpy Generator, whose methods may change. Fewer than C + one global batch
of examples are left out of an epoch, others in each. A plan keeps arrays of shards, 2 MB for 100,000 of them, and the
blocks of the groups that lanes are in (16 bytes for each block).
"""

import weakref
from collections.abc import Iterator
from dataclasses import dataclass

import numpy as np

from kdcache.errors import ConfigError
from kdcache.stream.by_length import ByLength
from kdcache.stream.parts import Part, Stretch

__all__ = ["EpochPlan", "rank_lanes", "steps_per_epoch"]

GROUP = 32
LINE, BLOCKS, PLACES, TURNS = 0, 1, 2, 3


class EpochPlan:
    """Which examples each lane gives, in which order; num_samples = floor(N / lanes) · lanes of all of them."""

    def __init__(
        self,
        shard_examples: np.ndarray,
        block_examples: np.ndarray,
        *,
        seed: int,
        epoch: int,
        lanes: int,
        by_length: ByLength | None = None,
    ) -> None:
        self._key = np.array([seed % (1 << 64), epoch], np.uint64)
        self._examples = int(shard_examples.sum())
        self.lane_length = self._examples // lanes
        self.num_samples = self.lane_length * lanes
        draws = self._draws(LINE, 0, 0, 1 + len(shard_examples))
        self._turn = int(draws[0]) % max(self._examples, 1)
        self._shards = np.argsort(draws[1:], kind="stable")
        self._sizes, self._block_sizes = shard_examples, block_examples
        sums = np.cumsum(np.append(0, shard_examples[self._shards]), dtype=np.int64)
        self._starts = np.append(sums[:-1][::GROUP], self._examples)
        self._groups: weakref.WeakValueDictionary[int, _Group] = weakref.WeakValueDictionary()
        self._by_length = by_length
        self._first_turn = int(self._draws(TURNS, 0, 0, 1)[0])

    def stretches(self, lane: int, offset: int = 0) -> Iterator[Stretch]:
        """The stretches of a lane in the order of use, from the one that holds this offset of the lane."""
        begin = lane * self.lane_length + self._turn
        end = begin + self.lane_length
        forwards = lane % 2 == 0
        place = begin + offset if forwards else end - 1 - offset
        width = 1 if self._by_length is None else self._by_length.blocks
        group = None
        while begin <= place < end:
            turns, on_line = divmod(place, self._examples)
            if group is None or not group.starts[0] <= on_line < group.starts[-1]:
                group = self._group(int(np.searchsorted(self._starts, on_line, side="right")) - 1)
            at = int(np.searchsorted(group.starts, on_line, side="right")) - 1
            numbers = range(at // width * width, min((at // width + 1) * width, len(group.blocks)))
            parts = []
            for number in numbers if forwards else reversed(numbers):
                block_start, block_stop = (int(edge) + turns * self._examples for edge in group.starts[number:][:2])
                first, stop = max(begin, block_start), min(end, block_stop)
                if first >= stop:
                    continue
                indices = first - block_start + self._shuffle(first - turns * self._examples, stop - first)
                offset = first - begin if forwards else end - stop
                parts.append(Part(lane, offset, int(group.shards[number]), int(group.blocks[number]), indices))
            yield self._stretch(parts)
            place = begin + parts[-1].stop if forwards else end - 1 - parts[-1].stop

    def _stretch(self, parts: list[Part]) -> Stretch:
        turns = None
        if self._by_length is not None:
            first, count = parts[0].first, parts[-1].stop - parts[0].first
            turns = self._by_length.turns(self._first_turn, parts[0].lane, first, count)
        return Stretch(tuple(parts), turns)

    def _group(self, number: int) -> "_Group":
        group = self._groups.get(number)
        if group is None:
            shards = self._shards[number * GROUP : (number + 1) * GROUP]
            sizes, block_sizes = self._sizes[shards], np.maximum(self._block_sizes[shards], 1)
            counts = -(-sizes // block_sizes)
            which = np.repeat(np.arange(len(shards)), counts)
            blocks = np.arange(len(which)) - np.repeat(np.cumsum(counts) - counts, counts)
            order = np.argsort(self._draws(BLOCKS, number, 0, len(which)), kind="stable")
            which, blocks = which[order], blocks[order]
            lengths = np.minimum(block_sizes[which], sizes[which] - blocks * block_sizes[which])
            starts = np.cumsum(np.append(self._starts[number], lengths))
            group = _Group(shards[which].astype(np.int32), blocks.astype(np.int32), starts)
            self._groups[number] = group
        return group

    def _shuffle(self, place: int, count: int) -> np.ndarray:
        """A permutation of `count` examples that begin here on the line: each place draws a number."""
        counter, skipped = divmod(place, 4)
        return np.argsort(self._draws(PLACES, 0, counter, skipped + count)[skipped:], kind="stable")

    def _draws(self, stream: int, number: int, counter: int, count: int) -> np.ndarray:
        """uint64 draws of one counter-based stream, four for each step of the counter."""
        words = np.array([counter, 0, number, stream], np.uint64)
        return np.random.Philox(key=self._key, counter=words).random_raw(count)


@dataclass(eq=False)
class _Group:
    """The blocks of some shards in the order of the line; starts: places on it, one more than blocks."""

    shards: np.ndarray
    blocks: np.ndarray
    starts: np.ndarray


def steps_per_epoch(num_examples: int, *, lanes: int, global_batch: int) -> int:
    """Whole global batches in an epoch. Raises ConfigError when there is none."""
    steps = num_examples // lanes * lanes // global_batch
    if steps == 0:
        raise ConfigError(
            f"got a cache of {num_examples} examples and global_batch {global_batch}, expected at least "
            f"{global_batch} examples"
        )
    return steps


def rank_lanes(lanes: int, rank: int, world_size: int) -> range:
    """The contiguous lanes of a rank. Raises ConfigError unless world_size divides lanes."""
    if lanes % world_size:
        raise ConfigError(
            f"got world size {world_size} and {lanes} lanes, expected the world size to divide the lanes; "
            f"set stream.lanes to a multiple of {world_size} that divides global_batch"
        )
    each = lanes // world_size
    return range(rank * each, (rank + 1) * each)
