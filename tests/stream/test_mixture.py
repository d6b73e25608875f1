"""A loader of a mixture on real shards: which examples come, resume, what is read, memory, faults."""

import math
import tracemalloc
from collections.abc import Mapping
from pathlib import Path
from typing import Any

import numpy as np
import pytest
from stream.orders import epoch_order
from stream.test_loader import counting, num_blocks, numbers, take, write_cache

from kdcache import CacheWriter, Loader, Mixture, open_cache
from kdcache.errors import CacheError, ConfigError, DamagedShardError
from kdcache.stream.by_length import GOLDEN
from kdcache.stream.mixing import Mixing
from kdcache.stream.rota import Rota
from kdcache.targets.sampled import Sampled
from kdcache.targets.top_k import TopK

WEIGHTS = (3.0, 1.0, 0.5)
FIRST = (0, 104, 250)
SETTINGS: Mapping[str, Any] = {"global_batch": 16, "micro_batch": 2, "lanes": 8, "seed": 5}
TURNS = SETTINGS | {"global_batch": 4, "micro_batch": 1}
GROUPED = SETTINGS | {"length_groups": 2, "length_blocks": 2}


@pytest.fixture(scope="module")
def folders(tmp_path_factory: pytest.TempPathFactory) -> list[Path]:
    """104, 60 and 9 examples, whose first tokens are their numbers."""
    root = tmp_path_factory.mktemp("mixture")
    sizes = ([30, 7, 0, 41, 1, 25], [40, 20], [9])
    return [
        write_cache(root / str(number), of_cache, backend="arrow", first=first)
        for number, (of_cache, first) in enumerate(zip(sizes, FIRST, strict=True))
    ]


def mixture(folders: list[Path], weights: tuple[float, ...] = WEIGHTS) -> Mixture:
    return Mixture([(open_cache(folder), weight) for folder, weight in zip(folders, weights, strict=True)])


def expected(mixed: Mixture, steps: int, settings: Mapping[str, Any]) -> list[set[int]]:
    """The global batches, sample by sample."""
    lanes, rota = settings["lanes"], Rota.of(settings["global_batch"], settings["lanes"])
    mixing = Mixing.of(mixed.weights, lanes)
    orders: dict[tuple[int, int], np.ndarray] = {}

    def example(cache: int, lane: int, number: int) -> int:
        found = mixed.caches[cache]
        epoch, offset = divmod(number, len(found) // lanes)
        if (cache, epoch) not in orders:
            keys = {"seed": 5 + cache * GOLDEN, "epoch": epoch, "lanes": lanes}
            orders[cache, epoch] = epoch_order(found.shard_examples, found.block_examples, **keys)
        return FIRST[cache] + int(orders[cache, epoch][offset, lane])

    batches: list[set[int]] = [set() for _ in range(steps)]
    for lane in range(lanes):
        taken = [0] * len(mixed.caches)
        for offset in range(rota.offset(lane, steps)):
            cache = int(mixing.cache(lane, np.array([offset]))[0])
            batches[rota.step(lane, offset)].add(example(cache, lane, taken[cache]))
            taken[cache] += 1
    return batches


def of_all_ranks(
    mixed: Mixture, steps: int, world_size: int, settings: Mapping[str, Any], state: Any = None
) -> list[set[int]]:
    batches: list[set[int]] = [set() for _ in range(steps)]
    for rank in range(world_size):
        with Loader(mixed, **settings, rank=rank, world_size=world_size) as loader:
            if state is not None:
                loader.load_state_dict(state)
            for batch, step in zip(batches, take(loader, steps), strict=True):
                assert len(step) == settings["global_batch"] // world_size // settings["micro_batch"]
                batch |= {number for micro_batch in step for number in micro_batch}
    return batches


@pytest.mark.parametrize("memory_gb", [1.0, 1e-9])
@pytest.mark.parametrize("world_size", [1, 2, 4])
@pytest.mark.parametrize(("settings", "steps"), [(SETTINGS, 30), (TURNS, 100)])
def test_the_examples_are_those_of_the_order_at_any_world_size(
    folders: list[Path], memory_gb: float, world_size: int, settings: Mapping[str, Any], steps: int
) -> None:
    """Also over the ends of epochs of the mixture, which has 10 or 42 steps, and of its caches, the smallest of which
    is gone through six times."""
    mixed = mixture(folders)
    found = of_all_ranks(mixed, steps, world_size, settings | {"memory_gb": memory_gb})
    assert found == expected(mixed, steps, settings)


@pytest.mark.parametrize("settings", [SETTINGS, GROUPED, TURNS])
def test_ten_steps_are_five_and_five_at_any_world_size(folders: list[Path], settings: Mapping[str, Any]) -> None:
    mixed = mixture(folders)
    with Loader(mixed, **settings) as loader:
        assert loader.steps_per_epoch == 173 // 8 * 8 // settings["global_batch"]
        take(loader, 57)
        state = loader.state_dict()
        whole = [{number for batch in step for number in batch} for step in take(loader, 7)]
    assert state["epoch"] == 56 // loader.steps_per_epoch
    assert state["caches"] == [
        {"sha256": cache.digest, "weight": weight} for cache, weight in zip(mixed.caches, WEIGHTS, strict=True)
    ]
    for world_size in (1, 2, 4):
        assert of_all_ranks(mixed, 7, world_size, settings, state) == whole


def test_grouping_by_length_changes_places_inside_a_cache_alone(folders: list[Path]) -> None:
    """What a lane takes of each cache, and when, is the same; a step's lengths are of few quantiles."""
    mixed = mixture(folders, (1.0, 1.0, 1.0))
    found = []
    for settings in (SETTINGS, GROUPED):
        with Loader(mixed, **settings) as loader:
            found.append([sorted(number for batch in step for number in batch) for step in take(loader, 40)])
    plain, grouped = (np.searchsorted(FIRST, np.array(batches), side="right") for batches in found)
    assert np.array_equal(plain, grouped)
    assert found[0] != found[1]
    for world_size in (2, 4):
        assert of_all_ranks(mixed, 40, world_size, GROUPED) == [{*batch} for batch in found[1]]


def test_a_small_cache_is_gone_through_more_often(folders: list[Path]) -> None:
    """Each cache whole, but for what its lanes leave out, as often as `passes` says."""
    mixed, steps = mixture(folders), 160
    counts = np.zeros(300, int)
    with Loader(mixed, **SETTINGS) as loader:
        for step in take(loader, steps):
            for number in (number for batch in step for number in batch):
                counts[number] += 1
    for cache, first, share, passes in zip(mixed.caches, FIRST, mixed.shares, mixed.passes(16 * steps), strict=True):
        of_cache = counts[first : first + len(cache)]
        assert abs(of_cache.sum() - 16 * steps * share) < 16
        assert passes == pytest.approx(of_cache.mean(), rel=0.05)
        assert of_cache.min() > 0.5 * passes


def test_a_mixture_of_one_is_the_cache(folders: list[Path]) -> None:
    cache = open_cache(folders[0])
    with Loader(cache, **SETTINGS) as one, Loader(Mixture([(cache, 7.0)]), **SETTINGS) as other:
        assert take(one, 20) == take(other, 20)
        assert one.state_dict() == other.state_dict()


def test_what_is_read_is_used_once(tmp_path: Path) -> None:
    """Each cache's blocks once in each of its passes, with memory for two of each lane in all."""
    sizes = ([50] * 4, [50] * 2)
    caches = [
        counting(write_cache(tmp_path / str(n), of_cache, length=3, backend="arrow", first=100 * n), block=5)
        for n, of_cache in enumerate(sizes)
    ]
    mixed = Mixture([(caches[0], 1), (caches[1], 1)])
    memory = 30 * sum(cache.read(0, 5).nbytes for cache in caches)
    with Loader(mixed, **SETTINGS, memory_gb=memory / 1e9) as loader:
        assert all(reading.offsets is None and not reading.keep for reading in loader._readings)
        take(loader, 100)
        before = [sum(cache.reads.values()) for cache in caches]
        take(loader, 100)
    for cache, start in zip(caches, before, strict=True):
        passes = 100 * 8 / len(cache)
        assert sum(cache.reads.values()) - start <= 1.05 * passes * num_blocks(cache) + 8


def test_memory_is_shared_and_stays_within_the_bound(tmp_path: Path) -> None:
    caches = [
        open_cache(write_cache(tmp_path / str(n), [10] * 15, length=500, backend="arrow", first=150 * n))
        for n in range(2)
    ]
    for megabytes in (30, 8):
        with Loader(
            Mixture([(caches[0], 5), (caches[1], 1)]), **SETTINGS, memory_gb=megabytes / 1e3, threads=1
        ) as loader:
            next(loader)
            tracemalloc.start()
            take(loader, 60)
            peak = tracemalloc.get_traced_memory()[1] / 1e6
            tracemalloc.stop()
        assert peak < megabytes


def test_a_damaged_shard_of_any_cache_reaches_the_caller_after_the_steps_before_it(tmp_path: Path) -> None:
    good = write_cache(tmp_path / "good", [40])
    bad = write_cache(tmp_path / "bad", [20, 20, 20], first=200)
    mixed = Mixture([(open_cache(good), 1), (open_cache(bad), 1)])
    settings = SETTINGS | {"global_batch": 2, "lanes": 2}
    with Loader(mixed, **settings) as loader:
        steps = take(loader, 60)
    file = next(bad.glob("shards/000/000001.zarr*"))
    data = bytearray(file.read_bytes())
    data[len(data) // 2] ^= 1
    file.write_bytes(data)
    before = next(n for n, step in enumerate(steps) if any(220 <= number < 240 for number in step[0]))
    seen = []
    with Loader(mixed, **settings) as loader, pytest.raises(DamagedShardError, match="000001"):
        seen.extend(map(numbers, loader))
    assert seen == steps[:before]


def test_a_state_of_other_caches_or_weights_is_refused(folders: list[Path]) -> None:
    with Loader(mixture(folders), **SETTINGS) as loader:
        state = loader.state_dict()
    with (
        Loader(mixture(folders, (3.0, 1.0, 0.25)), **SETTINGS) as loader,
        pytest.raises(CacheError, match=r"trained on a mixture of .* with weight 0.5, got .* with weight 0.25"),
    ):
        loader.load_state_dict(state)
    with (
        Loader(open_cache(folders[0]), **SETTINGS) as loader,
        pytest.raises(CacheError, match=r"trained on a mixture of .* got the cache with cache_sha256"),
    ):
        loader.load_state_dict(state)


def test_lanes_are_no_more_than_the_smallest_cache_has_examples(folders: list[Path]) -> None:
    mixed = mixture(folders)
    with Loader(mixed, global_batch=64) as loader:
        assert loader.state_dict()["lanes"] == 8
        assert {*numbers(next(loader))[0]} <= {*range(104), *range(104, 164), *range(250, 259)}
    with pytest.raises(ConfigError, match=r"got 16 lanes and .*2 with 9 examples.*set stream.lanes to 8"):
        Loader(mixed, **SETTINGS | {"lanes": 16})


@pytest.mark.parametrize("weight", [0.0, -1.0, math.nan, math.inf, 1e-9])
def test_weights_are_numbers_above_nothing(folders: list[Path], weight: float) -> None:
    with pytest.raises(ConfigError, match=r"got weight .*, expected"):
        mixture(folders[:2], (1.0, weight))


def test_caches_that_do_not_go_together_are_refused(folders: list[Path], tmp_path: Path) -> None:
    first = open_cache(folders[0])

    def refused(other: Path, words: str, error: type[Exception] = CacheError) -> None:
        with pytest.raises(error, match=words) as caught:
            Mixture([(first, 1), (open_cache(other), 1)])
        assert "\n" not in str(caught.value)

    refused(folders[0], "the same cache twice", ConfigError)
    refused(write_cache(tmp_path / "sampled", [9], record=Sampled()), "it holds sampled, expected top_k")
    refused(write_cache(tmp_path / "k", [9], record=TopK(k=7)), r"its record\.[\w.]+ is")
    refused(
        write_cache(tmp_path / "causal", [9], task={"attention": "causal"}), "attention causal, expected .*document"
    )
    with CacheWriter(tmp_path / "wide", num_classes=301, record=None) as writer:
        writer.add([1, 2, 3])
    refused(tmp_path / "wide", "it has 301 classes, expected 300")
    with CacheWriter(tmp_path / "bare", num_classes=300, record=None) as writer:
        writer.add([1, 2, 3])
    refused(tmp_path / "bare", "it holds labels only, expected top_k")
