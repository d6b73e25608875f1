"""Lanes, shard permutation and window shuffle, for any cache, lanes and world size."""

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.errors import ConfigError
from kdcache.stream.order import EpochPlan, rank_lanes, rank_samples, steps_per_epoch


@st.composite
def runs(draw):
    """(plan, shard sizes, lanes, global_batch, window) with at least one step an epoch."""
    lanes = draw(st.sampled_from([1, 2, 4, 6, 12]))
    global_batch = lanes * draw(st.integers(1, 3))
    sizes = np.array(draw(st.lists(st.integers(0, 40), min_size=1, max_size=12)), np.int64)
    sizes[draw(st.integers(0, len(sizes) - 1))] += global_batch
    window = draw(st.integers(1, 50))
    plan = EpochPlan(
        sizes, seed=draw(st.integers(0, 1 << 70)), epoch=draw(st.integers(0, 5)), lanes=lanes, window=window
    )
    return plan, sizes, lanes, global_batch, window


def flat(sizes, shards, indices):
    assert (indices >= 0).all()
    assert (indices < sizes[shards]).all()
    return np.cumsum(sizes)[shards] - sizes[shards] + indices


def world_sizes(lanes):
    return [w for w in range(1, lanes + 1) if lanes % w == 0]


@settings(deadline=None)
@given(runs())
def test_every_example_at_most_once_and_nearly_all_seen(run):
    plan, sizes, lanes, global_batch, _ = run
    steps = steps_per_epoch(int(sizes.sum()), lanes=lanes, global_batch=global_batch)
    seen = flat(sizes, *plan.examples(np.arange(steps * global_batch)))
    assert len(np.unique(seen)) == len(seen)
    assert sizes.sum() - len(seen) < lanes + global_batch
    assert plan.num_samples == sizes.sum() // lanes * lanes


@settings(deadline=None)
@given(runs(), st.data())
def test_any_sample_is_found_without_the_ones_before_it(run, data):
    plan, _, _, _, _ = run
    samples = np.arange(plan.num_samples)
    shards, indices = plan.examples(samples)
    some = np.array(data.draw(st.lists(st.sampled_from(samples.tolist()), min_size=1, max_size=20)))
    for got, whole in zip(plan.examples(some), (shards, indices), strict=True):
        np.testing.assert_array_equal(got, whole[some])


@settings(deadline=None)
@given(runs())
def test_global_batches_are_the_same_at_every_world_size(run):
    _, _, lanes, global_batch, _ = run
    for first in (0, global_batch, 7 * lanes):
        for world_size in world_sizes(lanes):
            parts = [
                rank_samples(first, global_batch=global_batch, lanes=lanes, owned=rank_lanes(lanes, rank, world_size))
                for rank in range(world_size)
            ]
            assert all((np.diff(part) > 0).all() for part in parts)
            assert {len(part) for part in parts} == {global_batch // world_size}
            np.testing.assert_array_equal(np.sort(np.concatenate(parts)), np.arange(first, first + global_batch))


@settings(deadline=None)
@given(runs())
def test_a_rank_reads_one_stretch_so_few_shards_are_shared(run):
    """A rank's lanes touch each shard from one side: cuts between ranks number W, so do second readers."""
    plan, sizes, lanes, _, _ = run
    samples = np.arange(plan.num_samples)
    for world_size in world_sizes(lanes):
        each = lanes // world_size
        readers = [
            set(plan.examples(samples[(samples % lanes) // each == rank])[0].tolist()) for rank in range(world_size)
        ]
        assert sum(len(shards) for shards in readers) <= np.count_nonzero(sizes) + world_size
        rank_examples = plan.num_samples // world_size
        for shard in range(len(sizes)):
            if sizes[shard] <= rank_examples:
                assert sum(shard in shards for shards in readers) <= 2


@settings(deadline=None)
@given(runs())
def test_a_window_holds_a_stretch_of_the_line(run):
    """Window by window a lane visits runs of consecutive examples: one run per shard that the window touches."""
    plan, sizes, lanes, _, window = run
    samples = np.arange(plan.num_samples)
    line_order = [shard for shard in plan._shards.tolist() if sizes[shard]]
    follows = dict(zip(line_order, line_order[1:] + line_order[:1], strict=True))
    for lane in range(lanes):
        mine = samples[samples % lanes == lane]
        for start in range(0, len(mine), window):
            shards, indices = plan.examples(mine[start : start + window])
            pairs = set(zip(shards.tolist(), indices.tolist(), strict=True))
            ends = [
                (shard, index)
                for shard, index in pairs
                if ((shard, index + 1) if index + 1 < sizes[shard] else (follows[shard], 0)) not in pairs
            ]
            assert len(ends) <= 1


def test_windows_are_shuffled_and_the_shuffle_is_even():
    """The first example of a window lands on each of its 4 places about as often."""
    places = np.zeros(4, int)
    for seed in range(400):
        plan = EpochPlan(np.array([4]), seed=seed, epoch=0, lanes=1, window=4)
        _, indices = plan.examples(np.arange(4))
        places[int(np.flatnonzero(indices == plan._turn)[0])] += 1
    assert places.min() > 60


@pytest.mark.parametrize("sizes", [[107], [30, 40, 37]])
def test_epochs_differ_in_order_and_in_what_they_leave_out(sizes):
    sizes = np.array(sizes)
    orders, left_out = set(), set()
    for epoch in range(6):
        plan = EpochPlan(sizes, seed=3, epoch=epoch, lanes=4, window=8)
        seen = flat(sizes, *plan.examples(np.arange(steps_per_epoch(107, lanes=4, global_batch=16) * 16)))
        orders.add(tuple(seen.tolist()))
        left_out.add(tuple(np.setdiff1d(np.arange(107), seen).tolist()))
    assert len(orders) == 6
    assert len(left_out) >= 5


def test_seeds_differ():
    sizes = np.array([50, 50])
    first, second = (EpochPlan(sizes, seed=seed, epoch=0, lanes=2, window=16) for seed in (0, 1))
    assert (first.examples(np.arange(100))[1] != second.examples(np.arange(100))[1]).any()


def test_the_order_is_pinned():
    """A resumed run meets the same order after any update of kdcache or numpy."""
    plan = EpochPlan(np.array([5, 3, 4]), seed=7, epoch=2, lanes=2, window=4)
    shards, indices = plan.examples(np.arange(12))
    assert shards.tolist() == [0, 0, 1, 2, 1, 0, 1, 2, 0, 2, 0, 2]
    assert indices.tolist() == [0, 4, 0, 1, 1, 3, 2, 0, 2, 3, 1, 2]


def test_a_plan_of_a_hundred_million_examples_holds_shards_and_open_windows_alone():
    """How long it takes, tests/bench/planning.py says."""
    plan = EpochPlan(np.full(150_000, 667, np.int64), seed=0, epoch=0, lanes=64, window=256)
    plan.examples(rank_samples(64 * 1000, global_batch=1024, lanes=64, owned=range(64)))
    assert len(plan._windows) == 64
    assert sum(array.nbytes for array in [*plan._windows.values(), plan._starts, plan._shards]) < 4e6


def test_world_size_that_does_not_divide_the_lanes():
    with pytest.raises(
        ConfigError, match=r"got world size 3 and 64 lanes, expected .* stream.lanes to a multiple of 3"
    ):
        rank_lanes(64, 0, 3)


@pytest.mark.parametrize("examples", [0, 1, 127])
def test_cache_smaller_than_a_global_batch(examples):
    with pytest.raises(
        ConfigError, match=f"got a cache of {examples} examples and global_batch 128, expected at least 128"
    ):
        steps_per_epoch(examples, lanes=64, global_batch=128)
    assert steps_per_epoch(128, lanes=64, global_batch=128) == 1
