"""The order of examples, spelt out from the parts of a plan, for tests."""

import numpy as np

from kdcache.stream.order import EpochPlan


def lane_order(plan: EpochPlan, shard_examples: np.ndarray, block_examples: np.ndarray, lane: int) -> np.ndarray:
    """The numbers in the cache of a lane's examples, int64 [lane_length]."""
    starts = np.cumsum(shard_examples) - shard_examples
    parts = [*plan.parts(lane)]
    assert all((part.indices >= 0).all() for part in parts)
    for part in parts:
        inside = part.block * block_examples[part.shard] + part.indices
        assert (part.indices < block_examples[part.shard]).all()
        assert (inside < shard_examples[part.shard]).all()
    found = [starts[part.shard] + part.block * block_examples[part.shard] + part.indices for part in parts]
    return np.concatenate([np.zeros(0, np.int64), *found])


def epoch_order(shard_examples: np.ndarray, block_examples: np.ndarray, **settings: int) -> np.ndarray:
    """The numbers in the cache of sample 0, 1, … of an epoch, as [offset, lane]."""
    plan = EpochPlan(shard_examples, block_examples, **settings)
    lanes = [lane_order(plan, shard_examples, block_examples, lane) for lane in range(settings["lanes"])]
    return np.stack(lanes, axis=1)
