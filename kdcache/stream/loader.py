"""Loader: the micro-batches of one rank, step after step, epoch after epoch.

The order is decided in order.py and never depends on how shards are read. Steps are read in blocks (blocks.py): while
the caller uses one block, threads read the shards that the next one misses and keep the examples of the blocks to
come. Threads only read and cut; everything else happens in the caller's thread, so there are no locks, and an error
in a shard is raised at the first block that holds one of its examples, whatever the threads' timing.

Two threads decode 200–600 MB/s, a training step of 8 GPUs × 200k tokens/s needs 150.
"""

from collections import deque
from collections.abc import Callable, Generator, Iterator, Mapping
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass, field
from itertools import islice
from typing import Any, Self

import numpy as np

from kdcache.errors import CacheError, ConfigError
from kdcache.store.batch import Batch, concat
from kdcache.store.cache import Cache
from kdcache.stream.blocks import decoded_bytes, plan_reading
from kdcache.stream.fitting import check_sizes, usual_lanes
from kdcache.stream.micro_batches import MicroBatches
from kdcache.stream.order import EpochPlan, rank_lanes, rank_samples, steps_per_epoch

__all__ = ["Loader"]


@dataclass
class Block:
    """Some consecutive steps of one epoch, as a rank sees them.

    wanted: shard -> indices of the examples to take, ascending. rows: for each sample, step after step, its row in
    what was taken, shard after shard. reads: shard -> the read that brings this block's examples.
    """

    number: int
    epoch: int
    wanted: dict[int, np.ndarray]
    rows: np.ndarray
    reads: dict[int, Future[dict[int, Batch]]] = field(default_factory=dict)

    def assemble(self) -> Batch:
        """What was taken, in one batch. Waits for the reads; raises what they raised, lowest shard first."""
        return concat([self.reads[shard].result().pop(self.number) for shard in self.wanted])


class Loader(Iterator[list[Batch]]):
    """The batches of one rank, step after step without an end.

    A step is the rank's micro-batches of one global batch, in order; `micro_batches` gives them one by one, epoch by
    epoch, to trainers that expect a DataLoader. The global batches are the same at every world size. Close the loader,
    or use it as a context manager, to stop its threads. A damaged shard raises DamagedShardError from next().

    Args:
        cache: A finished cache.
        global_batch: Examples of one step, those of all ranks together.
        micro_batch: Examples of one batch; it divides the rank's share of global_batch, which is the default.
        lanes: How many streams of examples are read side by side; it divides global_batch, and world_size divides it.
            By default the largest divisor of global_batch up to 64.
        window: A lane shuffles its examples inside windows of so many.
        seed: Of the order.
        rank: This process's number, from 0.
        world_size: How many processes share a global batch.
        memory_gb: 10⁹ bytes that examples read ahead and shards being read may take. One step ahead and `threads`
            shards are held whatever it says.
        threads: How many read.
        epoch: Where to start.
        samples_seen: Where in that epoch, counted in examples of all ranks.

    Attributes:
        steps_per_epoch: Whole global batches in an epoch.
        epoch: That of the last step handed out.

    Raises:
        ConfigError: The world size does not divide lanes, micro_batch does not divide the rank's share, or the cache is
            smaller than a global batch. The message names settings that fit.
    """

    # A weighted mixture of caches would be one more pure function in order.py, from sample to (cache, sample of it).

    def __init__(
        self,
        cache: Cache,
        *,
        global_batch: int,
        micro_batch: int | None = None,
        lanes: int | None = None,
        window: int = 256,
        seed: int = 0,
        rank: int = 0,
        world_size: int = 1,
        memory_gb: float = 2.0,
        threads: int = 2,
        epoch: int = 0,
        samples_seen: int = 0,
    ) -> None:
        micro_batch = max(global_batch // world_size, 1) if micro_batch is None else micro_batch
        lanes = usual_lanes(global_batch) if lanes is None else lanes
        check_sizes(len(cache), global_batch=global_batch, micro_batch=micro_batch, lanes=lanes, world_size=world_size)
        self.steps_per_epoch = steps_per_epoch(len(cache), lanes=lanes, global_batch=global_batch)
        self.epoch = epoch
        self._owned = rank_lanes(lanes, rank, world_size)
        self._share = global_batch // world_size
        self._cache = cache
        self._global_batch, self._micro_batch = global_batch, micro_batch
        self._lanes, self._window, self._seed = lanes, window, seed
        self._samples_seen = samples_seen
        manifest = cache.manifest
        fields, largest = manifest.header.fields, max(manifest.shards, key=lambda shard: shard.bytes)
        self._reading = plan_reading(
            int(memory_gb * 1e9),
            read_bytes=largest.bytes + 2 * decoded_bytes(fields, largest),
            step_bytes=decoded_bytes(fields, manifest.totals) * self._share // len(cache),
            steps_per_epoch=self.steps_per_epoch,
            threads=threads,
        )
        self._pool = ThreadPoolExecutor(threads, thread_name_prefix="kdcache-read")
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
            {cache_sha256, seed, lanes, window, epoch, samples_seen}, ready for JSON. It is the same at every rank and
            world size, so a run may go on with another number of ranks.
        """
        return {**self._pinned(), "epoch": self.epoch, "samples_seen": self._samples_seen}

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the last step that a state counts.

        Args:
            state: What `state_dict` gave.

        Raises:
            CacheError: It is of another cache.
            ConfigError: It is of another seed, lanes or window.
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
        self._pool.shutdown(wait=True, cancel_futures=True)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _pinned(self) -> dict[str, Any]:
        return {
            "cache_sha256": self._cache.digest,
            "seed": self._seed,
            "lanes": self._lanes,
            "window": self._window,
        }

    def _run(self) -> Generator[list[Batch], None, None]:
        blocks = self._blocks(self.epoch, self._samples_seen)
        upcoming = deque(islice(blocks, self._reading.ahead + 1))
        try:
            self._read(upcoming)
            while True:
                block = upcoming.popleft()
                examples = block.assemble()
                upcoming.append(next(blocks))
                self._read(upcoming)
                for step_rows in block.rows.reshape(-1, self._share):
                    if block.epoch != self.epoch:
                        self.epoch, self._samples_seen = block.epoch, 0
                    self._samples_seen += self._global_batch
                    yield [examples.take(rows) for rows in step_rows.reshape(-1, self._micro_batch)]
                del examples
        finally:
            for block in upcoming:
                for read in block.reads.values():
                    read.cancel()

    def _blocks(self, epoch: int, samples_seen: int) -> Iterator[Block]:
        number = 0
        while True:
            plan = EpochPlan(
                self._cache.shard_examples, seed=self._seed, epoch=epoch, lanes=self._lanes, window=self._window
            )
            left = (plan.num_samples - samples_seen) // self._global_batch
            for start in range(0, left, self._reading.steps):
                steps = min(self._reading.steps, left - start)
                samples = rank_samples(
                    samples_seen + start * self._global_batch,
                    global_batch=steps * self._global_batch,
                    lanes=self._lanes,
                    owned=self._owned,
                )
                yield _block(number, epoch, *plan.examples(samples))
                number += 1
            epoch, samples_seen = epoch + 1, 0

    def _read(self, upcoming: deque[Block]) -> None:
        """Start the reads that the next block misses; each also serves the blocks after it in the same epoch."""
        first = upcoming[0]
        for shard in first.wanted:
            if shard in first.reads:
                continue
            served = [b for b in upcoming if b.epoch == first.epoch and shard in b.wanted]
            read = self._pool.submit(_cut, self._cache, shard, {b.number: b.wanted[shard] for b in served})
            for block in served:
                block.reads[shard] = read


def _block(number: int, epoch: int, shards: np.ndarray, indices: np.ndarray) -> Block:
    order = np.lexsort((indices, shards))
    rows = np.empty_like(order)
    rows[order] = np.arange(len(order))
    used, starts = np.unique(shards[order], return_index=True)
    taken = np.split(indices[order], starts[1:])
    return Block(number, epoch, dict(zip(used.tolist(), taken, strict=True)), rows)


def _cut(cache: Cache, shard: int, wanted: dict[int, np.ndarray]) -> dict[int, Batch]:
    """The examples of one shard that each block wants."""
    batch = cache.read_shard(shard)
    return {number: batch.take(indices) for number, indices in wanted.items()}
