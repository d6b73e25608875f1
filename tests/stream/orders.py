"""The order of examples, spelt out from the parts of a plan, for tests."""

from typing import Any

import numpy as np

from kdcache.stream.by_length import longest_first
from kdcache.stream.order import EpochPlan
from kdcache.stream.parts import Part


def parts_of(plan: EpochPlan, lane: int, offset: int = 0) -> list[Part]:
    """The parts of a lane, from the one that holds this offset of the lane."""
    return [part for stretch in plan.stretches(lane, offset) for part in stretch.parts if part.stop > offset]


def lane_order(
    plan: EpochPlan,
    shard_examples: np.ndarray,
    block_examples: np.ndarray,
    lane: int,
    lengths: np.ndarray | None = None,
) -> np.ndarray:
    """The numbers in the cache of a lane's examples, int64 [lane_length]. lengths: of all examples of the cache."""
    starts = np.cumsum(shard_examples) - shard_examples
    found = [np.zeros(0, np.int64)]
    for stretch in plan.stretches(lane):
        for part in stretch.parts:
            assert (part.indices >= 0).all()
            assert (part.indices < block_examples[part.shard]).all()
            assert (part.block * block_examples[part.shard] + part.indices < shard_examples[part.shard]).all()
        numbers = np.concatenate(
            [starts[part.shard] + part.block * block_examples[part.shard] + part.indices for part in stretch.parts]
        )
        found.append(numbers[stretch.order(lambda numbers=numbers: lengths[numbers])])
    return np.concatenate(found)


def epoch_order(
    shard_examples: np.ndarray, block_examples: np.ndarray, *, lengths: np.ndarray | None = None, **settings: Any
) -> np.ndarray:
    """The numbers in the cache of sample 0, 1, … of an epoch, as [offset, lane]."""
    plan = EpochPlan(shard_examples, block_examples, **settings)
    lanes = [lane_order(plan, shard_examples, block_examples, lane, lengths) for lane in range(settings["lanes"])]
    return np.stack(lanes, axis=1)


def in_steps(order: np.ndarray, *, lanes: int, global_batch: int) -> np.ndarray:
    """What each step takes of some neighbouring lanes, as [step, sample]. order: theirs, as [offset, lane]."""
    if lanes > global_batch:
        teams = lanes // global_batch
        return order.reshape(len(order), -1, teams).transpose(0, 2, 1).reshape(len(order) * teams, -1)
    per_lane = global_batch // lanes
    whole = len(order) // per_lane * per_lane
    return order[:whole].reshape(whole // per_lane, -1)


def padding(lengths: np.ndarray, order: np.ndarray, *, global_batch: int, world_size: int, micro_batch: int) -> float:
    """Tokens of the micro-batches of an epoch, padding and all, over the examples' tokens.

    lengths: of all examples of the cache. order: of an epoch, as [offset, lane].
    """
    per_lane, lanes = global_batch // order.shape[1], order.shape[1]
    whole = lengths[order[: len(order) // per_lane * per_lane]]
    of_lanes = whole.reshape(-1, per_lane, world_size, lanes // world_size)
    of_ranks = of_lanes.transpose(0, 2, 1, 3).reshape(-1, global_batch // world_size)
    sorted_ = np.take_along_axis(of_ranks, longest_first(of_ranks), axis=1).reshape(-1, micro_batch)
    return float(sorted_.max(1).sum() * micro_batch / sorted_.sum())
