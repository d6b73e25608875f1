"""The loader on real shards: which examples come, resume, how often shards are read, memory, faults."""

import threading
import tracemalloc
from collections import Counter
from collections.abc import Callable
from functools import lru_cache
from itertools import islice

import numpy as np
import pytest
from stream.orders import epoch_order, in_steps

from kdcache import CacheWriter, open_cache
from kdcache.errors import CacheError, ConfigError, DamagedShardError
from kdcache.store.batch import Batch
from kdcache.store.cache import Cache
from kdcache.stream.fitting import usual_lanes
from kdcache.stream.loader import Loader
from kdcache.targets.curve_spec import CurveSpec
from kdcache.targets.top_k import TopK

CLASSES = 300
RECORD = TopK(k=4, curve=CurveSpec(temperatures=(1.0, 2.0)))
SETTINGS = {"global_batch": 16, "micro_batch": 2, "lanes": 8, "seed": 5}
TURNS = SETTINGS | {"global_batch": 4, "micro_batch": 1}
"""More lanes than a step takes of."""


def length_of(number, length=12):
    """Tokens of an example of `write_cache`."""
    return length + number % 5


def write_cache(path, sizes, length=12, backend="zarr", first=0, record=RECORD, **settings):
    """Shards of these numbers of examples; an example's first token is its number in the cache, from `first` on."""
    rng = np.random.default_rng(first)
    number = first
    with CacheWriter(path, num_classes=CLASSES, record=record, backend=backend, **settings) as writer:
        for index, size in enumerate(sizes):
            with writer.builder.unit(index) as unit:
                for _ in range(size):
                    tokens = rng.integers(0, CLASSES, length_of(number, length))
                    tokens[0] = number
                    unit.add(tokens, rng.normal(size=(len(tokens) - 1, CLASSES)).astype(np.float32))
                    number += 1
        writer.builder.finalize(len(sizes))
    return path


@pytest.fixture(scope="module")
def cache_folder(tmp_path_factory):
    return write_cache(tmp_path_factory.mktemp("stream") / "cache", [30, 7, 0, 41, 1, 25], backend="arrow")


class CountingCache(Cache):
    """A cache with blocks of a few examples, that counts the reads of each."""

    reads: Counter[tuple[int, int]]
    whole: Callable[[int], Batch]
    allowed: threading.Semaphore | None = None

    def read_block(self, shard, block):
        if self.allowed is not None:
            self.allowed.acquire()
        self.reads[shard, block] += 1
        size = self.block_examples[shard]
        return self.whole(shard).take(range(block * size, min((block + 1) * size, self.shard_examples[shard])))


def counting(folder, block=None):
    cache = open_cache(folder)
    cache.__class__ = CountingCache
    cache.reads, cache.whole = Counter(), lru_cache(cache.read_shard)
    if block is not None:
        cache.block_examples = np.minimum(cache.shard_examples, block)
    return cache


def num_blocks(cache):
    return int(np.sum(-(-cache.shard_examples // np.maximum(cache.block_examples, 1))))


def numbers(step):
    return [[int(batch.tokens(i)[0]) for i in range(len(batch))] for batch in step]


def take(loader, steps):
    return [numbers(next(loader)) for _ in range(steps)]


def expected(cache, steps, *, rank=0, world_size=1, settings=SETTINGS):
    """From the plans alone, epoch after epoch; the longest examples of a step come first."""
    lanes, global_batch = settings["lanes"], settings["global_batch"]
    owned = slice(rank * lanes // world_size, (rank + 1) * lanes // world_size)
    got, epoch = [], 0
    while len(got) < steps:
        order = epoch_order(cache.shard_examples, cache.block_examples, seed=5, epoch=epoch, lanes=lanes)[:, owned]
        samples = in_steps(order, lanes=lanes, global_batch=global_batch)
        samples = np.take_along_axis(samples, np.argsort(-length_of(samples), axis=1, kind="stable"), axis=1)
        got += samples.reshape(len(samples), -1, settings["micro_batch"]).tolist()
        epoch += 1
    return got[:steps]


@pytest.mark.parametrize("memory_gb", [1.0, 1e-9])
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(("settings", "steps"), [(SETTINGS, 6), (TURNS, 26)])
def test_the_examples_are_those_of_the_plan(cache_folder, memory_gb, world_size, settings, steps):
    cache = open_cache(cache_folder)
    for rank in range(world_size):
        with Loader(cache, **settings, rank=rank, world_size=world_size, memory_gb=memory_gb) as loader:
            assert loader.steps_per_epoch == steps
            found = take(loader, 3 * steps + 2)
            assert found == expected(cache, 3 * steps + 2, rank=rank, world_size=world_size, settings=settings)


def test_batches_are_whole_examples_with_their_records(cache_folder):
    cache = open_cache(cache_folder)
    with Loader(cache, **SETTINGS) as loader:
        for batch in next(loader):
            for i in range(len(batch)):
                number = int(batch.tokens(i)[0])
                whole, one = cache.read(number, number + 1), batch.slice(i, i + 1)
                for name, array in whole.arrays.items():
                    np.testing.assert_array_equal(one.arrays[name], array)


@pytest.mark.parametrize("stop", [1, 5, 6, 7, 13])
@pytest.mark.parametrize("how", ["load_state_dict", "constructor"])
@pytest.mark.parametrize("settings", [SETTINGS, TURNS])
def test_resume_goes_on_with_the_same_batches_at_any_world_size(cache_folder, stop, how, settings):
    cache = open_cache(cache_folder)
    with Loader(cache, **settings, rank=1, world_size=2) as loader:
        take(loader, stop)
        state = loader.state_dict()
    for rank in range(4):
        where = {key: state[key] for key in ("epoch", "samples_seen")} if how == "constructor" else {}
        with Loader(cache, **settings, rank=rank, world_size=4, **where) as loader:
            if how == "load_state_dict":
                take(loader, 2)
                loader.load_state_dict(state)
            assert loader.state_dict() == state
            whole = expected(cache, stop + 8, rank=rank, world_size=4, settings=settings)
            assert take(loader, 8) == whole[stop:]


def test_state_is_small_json_of_everything_the_order_depends_on(cache_folder):
    cache = open_cache(cache_folder)
    with Loader(cache, **SETTINGS) as loader:
        take(loader, 8)
        assert loader.state_dict() == {
            "cache_sha256": cache.manifest.digest(),
            "seed": 5,
            "lanes": 8,
            "length_groups": 0,
            "length_blocks": 4,
            "epoch": 1,
            "samples_seen": 32,
        }


@pytest.mark.parametrize(("key", "name"), [("seed", "seed"), ("lanes", "stream.lanes")])
def test_a_state_of_other_settings_is_refused(cache_folder, key, name):
    with Loader(open_cache(cache_folder), **SETTINGS) as loader:
        state = loader.state_dict() | {key: 4}
        with pytest.raises(ConfigError, match=rf"got {name} \d, expected 4 as in the checkpoint"):
            loader.load_state_dict(state)
        with pytest.raises(CacheError, match="cache_sha256 abc"):
            loader.load_state_dict(loader.state_dict() | {"cache_sha256": "abc"})


@pytest.fixture(scope="module")
def many_examples(tmp_path_factory):
    return write_cache(tmp_path_factory.mktemp("blocks") / "cache", [512] * 5, length=3, backend="arrow")


@pytest.mark.parametrize("world_size", [1, 2, 8, 64])
@pytest.mark.parametrize(("blocks_of_a_lane", "lanes"), [(1.4, 64), (3, 64), (3, 128)])
def test_what_is_read_is_used_once(many_examples, world_size, blocks_of_a_lane, lanes):
    """Read over all ranks in an epoch / in the cache, with 40 blocks for each of 64 ranks: only those that the cuts
    between ranks and the turn of the line run through are read twice."""
    cache = counting(many_examples, block=1)
    settings = SETTINGS | {"lanes": lanes, "global_batch": 64, "micro_batch": 1}
    block_bytes = cache.read(0, len(cache)).nbytes / num_blocks(cache)
    memory = block_bytes * (6 + (3 + blocks_of_a_lane) * lanes / world_size)
    reads, every = [], max(1, world_size // 2)
    for epochs in (1, 3):
        cache.reads.clear()
        for rank in range(0, world_size, every):
            where = {"rank": rank, "world_size": world_size}
            with Loader(cache, **settings, **where, memory_gb=memory / 1e9) as loader:
                assert loader._readings[0].offsets is None
                assert not loader._readings[0].keep
                for _ in range(epochs * loader.steps_per_epoch):
                    next(loader)
        reads.append(sum(cache.reads.values()))
    assert (reads[1] - reads[0]) / 2 <= 1.05 * num_blocks(cache) / every


@pytest.mark.parametrize("world_size", [1, 4, 64])
@pytest.mark.parametrize("start", [0, 64 * 11])
@pytest.mark.parametrize("lanes", [64, 128])
def test_the_first_step_waits_for_one_block_of_each_lane_that_it_takes_of(many_examples, world_size, start, lanes):
    """Also where an epoch is entered in its middle; half of them at its beginning, where neighbours share a block."""
    cache = counting(many_examples, block=16)
    settings = SETTINGS | {"lanes": lanes, "global_batch": 64, "micro_batch": 1}
    cache.allowed = threading.Semaphore(64 // world_size)
    with Loader(cache, **settings, rank=world_size - 1, world_size=world_size, samples_seen=start) as loader:
        assert len(next(loader)) == 64 // world_size
        if start == 0 and world_size == 1:
            assert cache.allowed._value >= 0
        for _ in range(1000):
            cache.allowed.release()


def test_a_cache_of_fewer_blocks_than_lanes_is_read_once_and_shared(cache_folder):
    cache = counting(cache_folder)
    with Loader(cache, **SETTINGS) as loader:
        take(loader, 60)
    assert cache.reads == {(0, 0): 1, (1, 0): 1, (3, 0): 1, (4, 0): 1, (5, 0): 1}


def test_memory_stays_within_the_bound_and_reads_grow_as_it_shrinks(tmp_path):
    """60 blocks of 250 kB, beside which Python's own objects are small; 16 lanes use 16 blocks at one time."""
    cache = counting(write_cache(tmp_path / "cache", [10] * 60, length=500, backend="arrow"))
    settings = SETTINGS | {"lanes": 16}
    reads, peaks = {}, {}
    for megabytes in (500, 15, 5, 2.5):
        cache.reads.clear()
        with Loader(cache, **settings, memory_gb=megabytes / 1e3, threads=1) as loader:
            next(loader)
            tracemalloc.start()
            for _ in range(73):
                next(loader)
            peaks[megabytes] = tracemalloc.get_traced_memory()[1] / 1e6
            tracemalloc.stop()
        reads[megabytes] = sum(cache.reads.values())
    assert reads[500] == 60
    assert reads[15] <= 2.7 * 60
    assert 3 * 60 < reads[5] < reads[2.5]
    assert peaks[15] < 15
    assert peaks[5] < 5
    assert peaks[2.5] < 2.5


def test_threads_end_with_the_loader(cache_folder):
    before = threading.active_count()
    with Loader(open_cache(cache_folder), **SETTINGS, memory_gb=1e-9) as loader:
        take(loader, 1)
        assert threading.active_count() > before
    assert threading.active_count() == before


@pytest.mark.parametrize("memory_gb", [1.0, 1e-9])
@pytest.mark.parametrize("lanes", [1, 4])
def test_a_damaged_shard_reaches_the_caller_and_nothing_hangs(tmp_path, memory_gb, lanes):
    folder = write_cache(tmp_path / "cache", [20, 20, 20])
    file = next(folder.glob("shards/000/000001.zarr*"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    cache = open_cache(folder)
    settings = SETTINGS | {"lanes": lanes, "global_batch": 2}
    steps = expected(cache, 30, settings=settings)
    good = next(number for number, step in enumerate(steps) if any(20 <= example < 40 for example in step[0]))
    seen = []
    with Loader(cache, **settings, memory_gb=memory_gb) as loader, pytest.raises(DamagedShardError, match="000001"):
        seen.extend(map(numbers, loader))
    assert seen == steps[:good]


@pytest.mark.parametrize("micro_batch", [2, 16])
def test_micro_batches_come_one_by_one_an_epoch_for_each_loop(cache_folder, micro_batch):
    cache = open_cache(cache_folder)
    settings = SETTINGS | {"micro_batch": micro_batch}
    steps = expected(cache, 12, settings=settings)
    with Loader(cache, **settings) as loader:
        batches = loader.micro_batches(lambda batch: numbers([batch])[0])
        assert len(batches) == 6 * 16 // micro_batch
        epochs = [[*batches], [*batches]]
    assert epochs == [[batch for step in half for batch in step] for half in (steps[:6], steps[6:])]


@pytest.mark.parametrize("taken", [0, 1, 7, 8, 9, 48, 50])
def test_micro_batches_go_on_after_the_last_whole_step(cache_folder, taken):
    cache = open_cache(cache_folder)
    with Loader(cache, **SETTINGS) as loader:
        batches, seen = loader.micro_batches(), []
        while len(seen) < taken:
            seen.extend(islice(batches, taken - len(seen)))
        state = batches.state_dict()
    with Loader(cache, **SETTINGS) as loader:
        batches = loader.micro_batches()
        batches.load_state_dict(state)
        assert batches.state_dict() == state
        first = numbers([next(iter(batches))])
    assert first == expected(cache, taken // 8 + 1)[taken // 8][:1]


def test_sizes_have_defaults_that_no_world_size_changes(cache_folder):
    cache = open_cache(cache_folder)
    settings = {"global_batch": 12, "micro_batch": 2, "lanes": 12, "seed": 5}
    for rank in range(3):
        with Loader(cache, global_batch=12, seed=5, rank=rank, world_size=3) as loader:
            got = [batch for step in take(loader, 3) for batch in step]
            assert [len(batch) for batch in got] == [4] * 3
            each = expected(cache, 3, rank=rank, world_size=3, settings=settings)
            assert got == [[number for batch in step for number in batch] for step in each]
    assert [usual_lanes(n, 1000) for n in (1, 7, 64, 96, 100, 256, 512, 257, 514, 768)] == [
        *(15, 14, 64, 96, 100, 256, 256, 257, 257, 256)
    ]
    assert [usual_lanes(n, 10**6) for n in (1, 7, 64, 96, 100, 256)] == [256, 252, 256, 192, 200, 256]
    assert usual_lanes(8, 10**6, 4) == 64


def test_settings_that_do_not_fit_are_refused(cache_folder):
    cache = open_cache(cache_folder)
    with pytest.raises(ConfigError, match="got world size 3 and 8 lanes"):
        Loader(cache, **SETTINGS, rank=0, world_size=3)
    with pytest.raises(ConfigError, match=r"got world size 8 and global_batch 4.*; set global_batch to 8"):
        Loader(cache, **TURNS, rank=0, world_size=8)
    with pytest.raises(ConfigError, match=r"got global_batch 4 and stream.lanes 9, .* set stream.lanes to 8"):
        Loader(cache, **TURNS | {"lanes": 9})
    with pytest.raises(ConfigError, match=r"got micro_batch 6 and 16 examples .* set micro_batch to 4"):
        Loader(cache, **SETTINGS | {"micro_batch": 6})
    with pytest.raises(ConfigError, match="got a cache of 104 examples and global_batch 128, expected at least 128"):
        Loader(cache, **SETTINGS | {"global_batch": 128})
