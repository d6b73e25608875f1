"""Lanes, the line of blocks and the shuffle inside them, for any cache, lanes and world size."""

from itertools import pairwise

import numpy as np
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from stream.orders import epoch_order, parts_of

from kdcache.errors import ConfigError
from kdcache.stream.order import GROUP, EpochPlan, rank_lanes, steps_per_epoch


@st.composite
def runs(draw):
    """(shard sizes, block sizes, settings, global_batch) with at least one step an epoch."""
    lanes = draw(st.sampled_from([1, 2, 3, 4, 6, 12]))
    global_batch = lanes * draw(st.integers(1, 3))
    shards = draw(st.sampled_from([1, 2, 5, GROUP + 3, 3 * GROUP]))
    sizes = np.array(draw(st.lists(st.integers(0, 40), min_size=shards, max_size=shards)), np.int64)
    sizes[draw(st.integers(0, len(sizes) - 1))] += global_batch
    blocks = np.array(draw(st.lists(st.integers(1, 50), min_size=shards, max_size=shards)), np.int64)
    keys = {"seed": draw(st.integers(0, 1 << 70)), "epoch": draw(st.integers(0, 5)), "lanes": lanes}
    return sizes, np.minimum(sizes, blocks), keys, global_batch


@settings(deadline=None)
@given(runs())
def test_every_example_at_most_once_and_nearly_all_seen(run):
    sizes, blocks, keys, global_batch = run
    steps = steps_per_epoch(int(sizes.sum()), lanes=keys["lanes"], global_batch=global_batch)
    order = epoch_order(sizes, blocks, **keys).ravel()
    assert len(order) == sizes.sum() // keys["lanes"] * keys["lanes"]
    seen = order[: steps * global_batch]
    assert len(np.unique(seen)) == len(seen)
    assert sizes.sum() - len(seen) < keys["lanes"] + global_batch


@settings(deadline=None)
@given(runs(), st.data())
def test_a_lane_is_entered_anywhere(run, data):
    """From any offset come the parts that the lane has from there on, and other lanes before it change nothing."""
    sizes, blocks, keys, _ = run
    plan = EpochPlan(sizes, blocks, **keys)
    lane = data.draw(st.integers(0, keys["lanes"] - 1))
    offset = data.draw(st.integers(0, plan.lane_length - 1))
    whole = parts_of(EpochPlan(sizes, blocks, **keys), lane)
    assert [part.first for part in whole] == [0, *(part.stop for part in whole[:-1])]
    assert whole[-1].stop == plan.lane_length
    entered = parts_of(plan, lane, offset)
    assert entered[0].first <= offset < entered[0].stop
    for one, other in zip(entered, whole[-len(entered) :], strict=True):
        assert (one.lane, one.first, one.shard, one.block) == (other.lane, other.first, other.shard, other.block)
        np.testing.assert_array_equal(one.indices, other.indices)


@settings(deadline=None)
@given(runs())
def test_a_part_is_a_stretch_of_one_block_and_a_block_is_cut_where_lanes_meet(run):
    """So blocks and cuts together bound the parts, and with them what all lanes read."""
    sizes, blocks, keys, _ = run
    plan = EpochPlan(sizes, blocks, **keys)
    number = 0
    for lane in range(keys["lanes"]):
        for part in parts_of(plan, lane):
            number += 1
            ordered = np.sort(part.indices)
            assert (np.diff(ordered) == 1).all()
    assert number <= np.sum(-(-sizes // np.maximum(blocks, 1))) + keys["lanes"] + 1


@settings(deadline=None)
@given(runs())
def test_neighbouring_lanes_use_the_block_that_their_cut_runs_through_at_the_same_time(run):
    """So that it is read once and held once; but for the turn of the line where the number of lanes is odd."""
    sizes, blocks, keys, _ = run
    plan = EpochPlan(sizes, blocks, **keys)
    uses: dict[tuple[int, int], list[tuple[int, int, int]]] = {}
    for lane in range(keys["lanes"]):
        for part in parts_of(plan, lane):
            uses.setdefault((part.shard, part.block), []).append((part.first, part.stop, lane))
    again = 0
    for parts in uses.values():
        held = 0
        for first, stop, _ in sorted(parts):
            again += held > 0 and first >= held
            held = max(held, stop)
    assert again <= keys["lanes"] % 2


@settings(deadline=None)
@given(runs())
def test_the_blocks_of_a_few_shards_are_mixed_and_no_others(run):
    """Along the line, the shards of a group come before those of the next."""
    sizes, blocks, keys, _ = run
    plan = EpochPlan(sizes, blocks, **keys | {"lanes": 1})
    shards = [part.shard for part in parts_of(plan, 0)]
    group_of = {shard: place // GROUP for place, shard in enumerate(plan._shards.tolist())}
    groups = [group_of[shard] for shard in shards]
    changes = sum(one != other for one, other in pairwise(groups))
    assert changes <= len(set(groups))


def test_the_shuffle_inside_a_block_is_even():
    """The first example of a block lands on each of its 4 places about as often."""
    places = np.zeros(4, int)
    for seed in range(400):
        parts = parts_of(EpochPlan(np.array([12]), np.array([4]), seed=seed, epoch=0, lanes=1), 0)
        for part in parts:
            if len(part.indices) == 4:
                places[int(np.flatnonzero(part.indices == 0)[0])] += 1
    assert places.min() > 0.2 * places.sum()


@pytest.mark.parametrize("sizes", [[107], [30, 40, 37]])
def test_epochs_differ_in_order_and_in_what_they_leave_out(sizes):
    sizes = np.array(sizes)
    orders, left_out = set(), set()
    for epoch in range(6):
        order = epoch_order(sizes, np.full(len(sizes), 8), seed=3, epoch=epoch, lanes=4).ravel()
        seen = order[: steps_per_epoch(107, lanes=4, global_batch=16) * 16]
        orders.add(tuple(seen.tolist()))
        left_out.add(tuple(np.setdiff1d(np.arange(107), seen).tolist()))
    assert len(orders) == 6
    assert len(left_out) >= 5


def test_seeds_differ():
    sizes = np.array([50, 50])
    first, second = (epoch_order(sizes, np.array([8, 8]), seed=seed, epoch=0, lanes=2) for seed in (0, 1))
    assert (first != second).any()


def test_the_order_is_pinned():
    """A resumed run meets the same order after any update of kdcache or numpy."""
    sizes, blocks = np.array([5, 3, 4]), np.array([2, 3, 2])
    order = epoch_order(sizes, blocks, seed=7, epoch=2, lanes=2)
    assert order.T.tolist() == [[6, 7, 4, 3, 2, 8], [5, 10, 11, 0, 1, 9]]


def test_a_plan_of_a_hundred_million_examples_holds_shards_and_the_blocks_of_open_groups():
    """How long it takes, tests/bench/planning.py says."""
    sizes, blocks = np.full(150_000, 667, np.int64), np.full(150_000, 16, np.int64)
    plan = EpochPlan(sizes, blocks, seed=0, epoch=0, lanes=256)
    lanes = [plan.stretches(lane, 1000) for lane in range(256)]
    assert all(next(lane).first <= 1000 for lane in lanes)
    kept = sum(g.shards.nbytes + g.blocks.nbytes + g.starts.nbytes for g in plan._groups.values())
    assert kept + plan._starts.nbytes + plan._shards.nbytes < 8e6
    del lanes
    assert not plan._groups


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
