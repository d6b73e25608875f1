"""Loader: the micro-batches of one rank, step after step, epoch after epoch.

The order is decided in order.py and never depends on how blocks are read. Threads read the blocks that the rank's lanes
use next, each once (reading.py), and one more thread copies the examples of the coming steps out of them, once
(store/gather.py), while the caller uses the step before. An error in a block is raised at the step that uses it,
whatever the threads' timing.

Two threads decode 300–800 MB/s, a training step of 8 GPUs × 200k tokens/s needs 150.
"""

import contextlib
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from dataclasses import dataclass
from functools import lru_cache
from itertools import count
from typing import Any, Self

import numpy as np

from kdcache.errors import CacheError, ConfigError, KdcacheError
from kdcache.store.batch import Batch
from kdcache.store.cache import Cache
from kdcache.store.gather import Chosen, Origin
from kdcache.stream.by_length import GOLDEN, ByLength, longest_first
from kdcache.stream.course import Course, MixedByLength
from kdcache.stream.fitting import groups_fault, lanes_fault
from kdcache.stream.memory import Sizes, decoded_bytes, plan_reading, shares_of_memory
from kdcache.stream.micro_batches import MicroBatches
from kdcache.stream.mixing import Mixing
from kdcache.stream.mixture import Mixture
from kdcache.stream.order import EpochPlan, rank_lanes
from kdcache.stream.reading import BlocksInUse
from kdcache.stream.rota import Rota

__all__ = ["Loader"]


class Loader(Iterator[list[Batch]]):
    """The batches of one rank, step after step without an end.

    A step is the rank's micro-batches of one global batch; `micro_batches` gives them one by one, epoch by epoch, to
    trainers that expect a DataLoader. The global batches are the same at every world size. The rank's examples of a
    step are cut into micro-batches in the order of their lengths, the longest first, so that little of a micro-batch is
    padding; a loss that is a sum over the step stays what it is. Close the loader, or use it as a context manager, to
    stop its threads. A damaged shard raises DamagedShardError from next().

    Args:
        cache: A finished cache, or a Mixture of several; then an epoch is as many samples as all of them have examples.
        global_batch: Examples of one step, those of all ranks together.
        micro_batch: Examples of one batch; it divides the rank's share of global_batch, which is the default.
        lanes: How many streams of examples are read side by side; it divides global_batch or is a multiple of it, and
            world_size divides it. By default the largest such number up to 256, with length_groups up to 256 /
            length_blocks, of K caches up to a K-th of that, and of a small cache up to a 64th of its examples. The
            smallest cache of a mixture has an example for each.
        length_groups: Into how many groups of examples of like length a global batch falls; it divides global_batch. 0:
            lengths are left to chance. StreamConfig says what it does to the order.
        length_blocks: Over how many blocks of a lane its examples are sorted for that.
        seed: Of the order.
        rank: This process's number, from 0.
        world_size: How many processes share a global batch.
        memory_gb: 10⁹ bytes that blocks in use and steps made ahead may take; caches of a mixture share them in
            proportion to the blocks that their lanes are in. Where they are too few for two blocks of
            each lane, blocks are read more than once; one step ahead and `threads` blocks are held whatever it says.
        threads: How many read.
        epoch: Where to start.
        samples_seen: Where in that epoch, counted in examples of all ranks.

    Attributes:
        steps_per_epoch: Whole global batches in an epoch.
        epoch: That of the last step handed out.

    Raises:
        ConfigError: The world size does not divide lanes and global_batch, neither of these divides the other,
            micro_batch does not divide the rank's share, or the cache is smaller than a global batch. The message names
            settings that fit.
    """

    def __init__(
        self,
        cache: Cache | Mixture,
        *,
        global_batch: int,
        micro_batch: int | None = None,
        lanes: int | None = None,
        length_groups: int = 0,
        length_blocks: int = 4,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        memory_gb: float = 2.0,
        threads: int = 2,
        epoch: int = 0,
        samples_seen: int = 0,
    ) -> None:
        mixture = Mixture.of(cache)
        micro_batch = max(global_batch // world_size, 1) if micro_batch is None else micro_batch
        stretch = length_blocks if length_groups else 1
        lanes = mixture.usual_lanes(global_batch, stretch) if lanes is None else lanes
        mixture.check_sizes(global_batch=global_batch, micro_batch=micro_batch, lanes=lanes, world_size=world_size)
        if fault := lanes_fault(global_batch, lanes) or groups_fault(global_batch, length_groups):
            raise ConfigError(fault)
        self.steps_per_epoch = mixture.steps_per_epoch(global_batch, lanes)
        self.epoch = epoch
        self._owned = rank_lanes(lanes, rank, world_size)
        self._share = global_batch // world_size
        self._mixture = mixture
        self._global_batch, self._micro_batch = global_batch, micro_batch
        self._lanes, self._seed = lanes, seed
        self._samples_seen = samples_seen
        self._rota = Rota.of(global_batch, lanes)
        self._mixing = Mixing.of(mixture.weights, lanes)
        self._length_groups, self._length_blocks = length_groups, length_blocks
        self._threads = threads
        sizes = [self._sizes(*part, stretch) for part in zip(mixture.caches, mixture.shares, strict=True)]
        memory = shares_of_memory(int(memory_gb * 1e9), sizes)
        self._readings = [plan_reading(part, size) for part, size in zip(memory, sizes, strict=True)]
        self._steps = self._run()

    def __next__(self) -> list[Batch]:
        return next(self._steps)

    def micro_batches(self, collate: Callable[[Batch], Any] | None = None) -> MicroBatches:
        """This loader as an iterable of micro-batches, for trainers that expect a DataLoader.

        Args:
            collate: What is made of each batch, such as a Collator. None: nothing.

        Returns:
            An iterable with a length: each `for` goes on to the end of an epoch.
        """
        return MicroBatches(self, self._share // self._micro_batch, collate)

    def state_dict(self) -> dict[str, Any]:
        """What a checkpoint keeps; it counts every step handed out so far.

        Returns:
            {cache_sha256, seed, lanes, length_groups, length_blocks, epoch, samples_seen}, ready for JSON; of a mixture
            {caches: [{sha256, weight}, …], …}. It is the same at every rank and world size, so a run may go on with
            another number of ranks.
        """
        return {**self._pinned(), "epoch": self.epoch, "samples_seen": self._samples_seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the last step that a state counts.

        Args:
            state: What `state_dict` gave.

        Raises:
            CacheError: It is of another cache, or of another mixture.
            ConfigError: It is of another seed, lanes or grouping by length.
        """
        for key, expected in self._pinned().items():
            got = state.get(key)
            if got == expected:
                continue
            if key in self._mixture.pins:
                raise CacheError(
                    f"the checkpoint was trained on {_spoken(state)}, got {_spoken(self._mixture.pins)}; give what it "
                    "began with, or start a new run"
                )
            setting = key if key == "seed" else f"stream.{key}"
            raise ConfigError(
                f"got {setting} {expected}, expected {got} as in the checkpoint; set it back, or start a new run"
            )
        self._steps.close()
        self.epoch, self._samples_seen = int(state["epoch"]), int(state["samples_seen"])
        self._steps = self._run()

    @property
    def at_the_end(self) -> bool:
        """Whether the last step handed out was the last one of its epoch."""
        return self._samples_seen >= self.steps_per_epoch * self._global_batch

    def close(self) -> None:
        """Stop the threads and forget what was read."""
        self._steps.close()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _pinned(self) -> dict[str, Any]:
        return {
            **self._mixture.pins,
            "seed": self._seed,
            "lanes": self._lanes,
            "length_groups": self._length_groups,
            "length_blocks": self._length_blocks,
        }

    def _sizes(self, cache: Cache, share: float, stretch: int) -> Sizes:
        blocks = int(np.sum(-(-cache.shard_examples // np.maximum(cache.block_examples, 1))))
        return Sizes(
            lanes=len(self._owned),
            blocks=blocks,
            block_bytes=decoded_bytes(cache.manifest.header.fields, cache.manifest.totals) // blocks + 1,
            block_examples=len(cache) / blocks,
            rota=self._rota,
            stretch=stretch,
            threads=self._threads,
            share=share,
        )

    def _run(self) -> Generator[list[Batch], None, None]:
        """Each step, while the ones after it are read and assembled."""
        readers = ThreadPoolExecutor(self._threads, thread_name_prefix="kdcache-read")
        assembler = ThreadPoolExecutor(1, thread_name_prefix="kdcache-assemble")
        try:
            begin = self.epoch * self.steps_per_epoch + self._samples_seen // self._global_batch
            sources = [self._source(number, begin, readers) for number in range(len(self._mixture.caches))]
            stretches = self._stretches()
            coming = assembler.submit(self._assemble, sources, *next(stretches))
            while True:
                epoch, steps, error = coming.result()
                if error is None:
                    coming = assembler.submit(self._assemble, sources, *next(stretches))
                for step in steps:
                    if epoch != self.epoch:
                        self.epoch, self._samples_seen = epoch, 0
                    self._samples_seen += self._global_batch
                    yield step
                if error is not None:
                    raise error
                del steps
        finally:
            readers.shutdown(wait=False, cancel_futures=True)
            assembler.shutdown(wait=True, cancel_futures=True)
            readers.shutdown(wait=True)

    def _source(self, number: int, begin: int, readers: ThreadPoolExecutor) -> "_Source":
        """One of the caches, read from a step of the run on."""
        cache, reading = self._mixture.caches[number], self._readings[number]
        each = len(cache) // self._lanes
        if self._mixture.alone:
            each = self.steps_per_epoch * self._global_batch // self._lanes
        course = Course(number, self._mixing, self._rota, each)
        plan = lru_cache(4)(lambda epoch: self._plan(course, epoch))
        needs = course.needs(plan, self._owned, begin, reading.offsets)
        lanes_L = np.arange(self._owned.start, self._owned.stop)
        numbers = lru_cache(2)(lambda step: course.number(lanes_L, step))  # an end is the next beginning
        return _Source(numbers, BlocksInUse(cache, needs, reading, readers))

    def _stretches(self) -> Iterator[tuple[int, int, int]]:
        """(epoch, first step, number of steps) of what is assembled at once; few steps at first, to begin soon."""
        first, most = self._samples_seen // self._global_batch, 1
        for epoch in count(self.epoch):
            while first < self.steps_per_epoch:
                steps = min(most, self.steps_per_epoch - first)
                yield epoch, first, steps
                first, most = first + steps, min(4 * most, *(reading.steps for reading in self._readings))
            first = 0

    def _assemble(
        self, sources: "list[_Source]", epoch: int, first: int, number: int
    ) -> tuple[int, list[list[Batch]], Exception | None]:
        """(epoch, the steps, what stopped them); one by one if a block is damaged, so that those before come whole."""
        steps: list[list[Batch]] = []
        first += epoch * self.steps_per_epoch
        try:
            with contextlib.suppress(KdcacheError):
                return epoch, self._steps_of(sources, first, first + number), None
            for step in range(first, first + number):
                steps += self._steps_of(sources, step, step + 1)
        except Exception as error:
            return epoch, steps, error
        return epoch, steps, None

    def _steps_of(self, sources: "list[_Source]", begin: int, end: int) -> list[list[Batch]]:
        """Some steps of the run that follow one another. Their examples are copied once."""
        for source in sources:
            source.blocks.require(end)
        for source in sources:
            source.blocks.read_ahead()
        lanes_L = np.arange(self._owned.start, self._owned.stop)
        starts_L, stops_L = self._rota.offset(lanes_L, begin), self._rota.offset(lanes_L, end)
        counts_L = stops_L - starts_L
        lanes_N = np.repeat(lanes_L, counts_L)
        offsets_N = np.arange(len(lanes_N)) + np.repeat(starts_L - np.cumsum(counts_L) + counts_L, counts_L)
        numbers = [(source.numbers(begin), source.numbers(end)) for source in sources]
        found = self._found(sources, numbers, lanes_N, offsets_N)
        in_order = np.empty(len(found), np.int64)
        in_order[self._rota.sample(lanes_N, offsets_N, self._owned) - begin * self._share] = np.arange(len(found))
        found = found.in_order(in_order)
        sorted_ = longest_first(found.lengths.reshape(-1, self._share)) + np.arange(0, len(found), self._share)[:, None]
        whole = found.in_order(sorted_.ravel()).copied()
        for source, (_, ends_L) in zip(sources, numbers, strict=True):
            source.blocks.used(zip(lanes_L.tolist(), ends_L.tolist(), strict=True))
        return self._cut(whole)

    def _found(
        self, sources: "list[_Source]", numbers: list[Any], lanes_N: np.ndarray, offsets_N: np.ndarray
    ) -> Chosen:
        """The examples at some offsets of the lanes. numbers: of each cache, of which lanes' samples to which."""
        origins: list[Origin] = []
        which, rows = [], []
        for source, (starts_L, ends_L) in zip(sources, numbers, strict=True):
            ranges = zip(self._owned, starts_L.tolist(), ends_L.tolist(), strict=True)
            of_cache, which_M, rows_M = source.blocks.examples(ranges)
            which.append(which_M + len(origins))
            rows.append(rows_M)
            origins += of_cache
        if len(sources) == 1:
            return Chosen(origins, which[0], rows[0])
        caches_N = self._mixing.cache(lanes_N, offsets_N)
        which_N, rows_N = np.empty_like(lanes_N), np.empty_like(lanes_N)
        for number in range(len(sources)):
            which_N[caches_N == number], rows_N[caches_N == number] = which[number], rows[number]
        return Chosen(origins, which_N, rows_N)

    def _cut(self, steps: Batch) -> list[list[Batch]]:
        """The micro-batches of each step."""
        batches = steps.cut(range(0, len(steps) + 1, self._micro_batch))
        each = self._share // self._micro_batch
        return [batches[first : first + each] for first in range(0, len(batches), each)]

    def _plan(self, course: Course, epoch: int) -> EpochPlan:
        """The order of a cache in an epoch of its own."""
        cache, by_length = self._mixture.caches[course.cache], None
        if self._length_groups:
            grouping = self._length_groups, self._length_blocks, self._rota
            alone = self._mixture.alone
            by_length = ByLength(*grouping) if alone else MixedByLength(*grouping, course, epoch, self._seed)
        sizes = cache.shard_examples, cache.block_examples
        seed = self._seed + course.cache * GOLDEN  # caches of the same sizes are not shuffled alike
        return EpochPlan(*sizes, seed=seed, epoch=epoch, lanes=self._lanes, by_length=by_length)


@dataclass(frozen=True)
class _Source:
    """A cache that is read: the number of each lane's first sample from a step on, and its blocks."""

    numbers: Callable[[int], np.ndarray]
    blocks: BlocksInUse


def _spoken(pins: Mapping[str, Any]) -> str:
    """The caches that a state is of."""
    if "caches" in pins:
        parts = (f"{str(part['sha256'])[:12]}… with weight {part['weight']:g}" for part in pins["caches"])
        return f"a mixture of {', '.join(parts)}"
    return f"the cache with cache_sha256 {str(pins.get('cache_sha256'))[:12]}…"
