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
from itertools import count
from typing import Any, Self

import numpy as np

from kdcache.errors import CacheError, ConfigError, KdcacheError
from kdcache.store.batch import Batch
from kdcache.store.cache import Cache
from kdcache.stream.by_length import ByLength, longest_first
from kdcache.stream.fitting import check_sizes, groups_fault, lanes_fault, usual_lanes
from kdcache.stream.memory import Sizes, decoded_bytes, plan_reading
from kdcache.stream.micro_batches import MicroBatches
from kdcache.stream.order import EpochPlan, rank_lanes, steps_per_epoch
from kdcache.stream.parts import Need
from kdcache.stream.reading import BlocksInUse, needs
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
        cache: A finished cache.
        global_batch: Examples of one step, those of all ranks together.
        micro_batch: Examples of one batch; it divides the rank's share of global_batch, which is the default.
        lanes: How many streams of examples are read side by side; it divides global_batch or is a multiple of it, and
            world_size divides it. By default the largest such number up to 256, with length_groups up to 256 /
            length_blocks, and of a small cache up to a 64th of its examples.
        length_groups: Into how many groups of examples of like length a global batch falls; it divides global_batch. 0:
            lengths are left to chance. StreamConfig says what it does to the order.
        length_blocks: Over how many blocks of a lane its examples are sorted for that.
        seed: Of the order.
        rank: This process's number, from 0.
        world_size: How many processes share a global batch.
        memory_gb: 10⁹ bytes that blocks in use and steps made ahead may take. Where they are too few for two blocks of
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

    # A weighted mixture of caches would be one more pure function in order.py, from sample to (cache, sample of it).

    def __init__(
        self,
        cache: Cache,
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
        micro_batch = max(global_batch // world_size, 1) if micro_batch is None else micro_batch
        stretch = length_blocks if length_groups else 1
        lanes = usual_lanes(global_batch, len(cache), stretch) if lanes is None else lanes
        check_sizes(len(cache), global_batch=global_batch, micro_batch=micro_batch, lanes=lanes, world_size=world_size)
        if fault := lanes_fault(global_batch, lanes) or groups_fault(global_batch, length_groups):
            raise ConfigError(fault)
        self.steps_per_epoch = steps_per_epoch(len(cache), lanes=lanes, global_batch=global_batch)
        self.epoch = epoch
        self._owned = rank_lanes(lanes, rank, world_size)
        self._share = global_batch // world_size
        self._cache = cache
        self._global_batch, self._micro_batch = global_batch, micro_batch
        self._lanes, self._seed = lanes, seed
        self._samples_seen = samples_seen
        self._rota = Rota.of(global_batch, lanes)
        self._length_groups, self._length_blocks = length_groups, length_blocks
        self._threads = threads
        blocks = int(np.sum(-(-cache.shard_examples // np.maximum(cache.block_examples, 1))))
        sizes = Sizes(
            lanes=len(self._owned),
            blocks=blocks,
            block_bytes=decoded_bytes(cache.manifest.header.fields, cache.manifest.totals) // blocks + 1,
            block_examples=len(cache) / blocks,
            rota=self._rota,
            stretch=stretch,
            threads=threads,
        )
        self._reading = plan_reading(int(memory_gb * 1e9), sizes)
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
            {cache_sha256, seed, lanes, length_groups, length_blocks, epoch, samples_seen}, ready for JSON. It is the
            same at every rank and world size, so a run may go on with another number of ranks.
        """
        return {**self._pinned(), "epoch": self.epoch, "samples_seen": self._samples_seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the last step that a state counts.

        Args:
            state: What `state_dict` gave.

        Raises:
            CacheError: It is of another cache.
            ConfigError: It is of another seed, lanes or grouping by length.
        """
        for key, expected in self._pinned().items():
            got = state.get(key)
            if got == expected:
                continue
            if key == "cache_sha256":
                raise CacheError(
                    f"the checkpoint was trained on the cache with cache_sha256 {str(got)[:12]}…, got one with "
                    f"{str(expected)[:12]}…; give the cache it began with, or start a new run"
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
            "cache_sha256": self._cache.digest,
            "seed": self._seed,
            "lanes": self._lanes,
            "length_groups": self._length_groups,
            "length_blocks": self._length_blocks,
        }

    def _run(self) -> Generator[list[Batch], None, None]:
        """Each step, while the ones after it are read and assembled."""
        readers = ThreadPoolExecutor(self._threads, thread_name_prefix="kdcache-read")
        assembler = ThreadPoolExecutor(1, thread_name_prefix="kdcache-assemble")
        try:
            blocks = BlocksInUse(self._cache, self._needs(), self._rota, self._reading, readers)
            stretches = self._stretches()
            coming = assembler.submit(self._assemble, blocks, *next(stretches))
            while True:
                epoch, steps, error = coming.result()
                if error is None:
                    coming = assembler.submit(self._assemble, blocks, *next(stretches))
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

    def _needs(self) -> Iterator[tuple[int, int, Need]]:
        """What the lanes read from here on, with its epoch and first step."""
        first, stop = self._samples_seen // self._global_batch, self.steps_per_epoch
        for epoch in count(self.epoch):
            plan, most = self._plan(epoch), self._reading.offsets
            for step, need in needs(plan, self._rota, self._owned, first, stop, most):
                yield epoch, step, need
            first = 0

    def _stretches(self) -> Iterator[tuple[int, int, int]]:
        """(epoch, first step, number of steps) of what is assembled at once; few steps at first, to begin soon."""
        first, most = self._samples_seen // self._global_batch, 1
        for epoch in count(self.epoch):
            while first < self.steps_per_epoch:
                steps = min(most, self.steps_per_epoch - first)
                yield epoch, first, steps
                first, most = first + steps, min(4 * most, self._reading.steps)
            first = 0

    def _assemble(
        self, blocks: BlocksInUse, epoch: int, first: int, number: int
    ) -> tuple[int, list[list[Batch]], Exception | None]:
        """(epoch, the steps, what stopped them); one by one if a block is damaged, so that those before come whole."""
        steps: list[list[Batch]] = []
        try:
            with contextlib.suppress(KdcacheError):
                return epoch, self._steps_of(blocks, epoch, first, first + number), None
            for step in range(first, first + number):
                steps += self._steps_of(blocks, epoch, step, step + 1)
        except Exception as error:
            return epoch, steps, error
        return epoch, steps, None

    def _steps_of(self, blocks: BlocksInUse, epoch: int, begin: int, end: int) -> list[list[Batch]]:
        """Some steps that follow one another. Their examples are copied once."""
        blocks.require(epoch, end)
        lanes = np.arange(self._owned.start, self._owned.stop)
        starts, stops = self._rota.offset(lanes, begin), self._rota.offset(lanes, end)
        found = blocks.examples(zip(lanes.tolist(), starts.tolist(), stops.tolist(), strict=True))
        counts = stops - starts
        offsets = np.arange(len(found)) + np.repeat(starts - np.cumsum(counts) + counts, counts)
        in_order = np.empty(len(found), np.int64)
        samples = self._rota.sample(np.repeat(lanes, counts), offsets, self._owned)
        in_order[samples - begin * self._share] = np.arange(len(found))
        found = found.in_order(in_order)
        sorted_ = longest_first(found.lengths.reshape(-1, self._share)) + np.arange(0, len(found), self._share)[:, None]
        whole = found.in_order(sorted_.ravel()).copied()
        blocks.used(epoch, end)
        return self._cut(whole)

    def _cut(self, steps: Batch) -> list[list[Batch]]:
        """The micro-batches of each step."""
        batches = steps.cut(range(0, len(steps) + 1, self._micro_batch))
        each = self._share // self._micro_batch
        return [batches[first : first + each] for first in range(0, len(batches), each)]

    def _plan(self, epoch: int) -> EpochPlan:
        sizes = self._cache.shard_examples, self._cache.block_examples
        groups = self._length_groups
        by_length = ByLength(groups, self._length_blocks, self._rota) if groups else None
        return EpochPlan(*sizes, seed=self._seed, epoch=epoch, lanes=self._lanes, by_length=by_length)
