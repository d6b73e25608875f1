"""How good the shuffle is: how far apart two neighbours of the corpus end up, and how often in one step.

G global batch, C lanes, g = G / C, B examples of a block, N of the cache.
"""

import numpy as np
import pytest
from stream.orders import epoch_order, in_steps

EPOCHS = 8


def steps_of(shards: int, examples: int, block: int, lanes: int, global_batch: int, epoch: int) -> np.ndarray:
    """The step in which each example of the cache comes; −1 where it is left out."""
    sizes = np.full(shards, examples)
    order = epoch_order(sizes, np.full(shards, block), seed=1, epoch=epoch, lanes=lanes).ravel()
    steps_N = np.full(shards * examples, -1)
    whole = len(order) // global_batch * global_batch
    steps_N[order[:whole]] = np.arange(whole) // global_batch
    return steps_N


def distances(inside: bool, *sizes: int) -> np.ndarray:
    """Steps between neighbours of the corpus, of every pair in one block or of every pair in two blocks of a shard."""
    _, examples, block, *_ = sizes
    found = []
    for epoch in range(EPOCHS):
        steps_N = steps_of(*sizes, epoch)
        first, second = steps_N[:-1], steps_N[1:]
        place = np.arange(1, len(steps_N)) % examples
        wanted = (place % block != 0) if inside else (place % block == 0) & (place != 0)
        wanted &= (first >= 0) & (second >= 0)
        found.append(np.abs(first - second)[wanted])
    return np.concatenate(found)


@pytest.mark.parametrize(("lanes", "global_batch"), [(16, 16), (16, 64)])
def test_neighbours_in_a_block(lanes, global_batch):
    """At most ⌈B / g⌉ steps apart, (B + 1) / 3g on average, in one step with the chance (g − 1) / (B − 1); the cuts
    between lanes set some of them far apart."""
    block, g = 32, global_batch // lanes
    apart = distances(True, 64, 320, block, lanes, global_batch)
    near = apart[apart <= -(-block // g)]
    assert len(near) > 0.97 * len(apart)
    assert near.mean() == pytest.approx((block + 1) / 3 / g, rel=0.1)
    share = float((near == 0).mean())
    if g == 1:
        assert share < 0.002  # two lanes meet in a block, and each may be at its part of it
    else:
        assert share == pytest.approx((g - 1) / (block - 1), rel=0.1)


def test_neighbours_in_two_blocks_are_as_far_apart_as_any_two_examples_of_a_group():
    """64 shards are two groups, each of 8 lanes: a third of an epoch, and one step no more often than by chance."""
    apart = distances(False, 64, 320, 32, 16, 64)
    steps = 64 * 320 // 64
    assert apart.mean() == pytest.approx(steps / 3, rel=0.1)
    assert (apart == 0).mean() < 2 / steps


def test_epochs_bring_others_together():
    """Of the pairs that share a step in one epoch, those not of one block meet in another no more often than by
    chance; those of one block, with the chance (g − 1) / (B − 1)."""
    first, second = (steps_of(64, 320, 32, 16, 64, epoch) for epoch in (0, 1))
    again = {True: [0, 0], False: [0, 0]}
    for step in range(0, first.max() + 1, 4):
        members = np.flatnonzero(first == step)
        one, other = (members[side] for side in np.triu_indices(len(members), 1))
        for inside in (True, False):
            pairs = (one // 32 == other // 32) == inside
            met = (second[one] == second[other]) & (second[one] >= 0)
            again[inside][0] += int(met[pairs].sum())
            again[inside][1] += int(pairs.sum())
    share = {inside: met / of for inside, (met, of) in again.items()}
    assert share[True] == pytest.approx(3 / 31, rel=0.3)
    assert share[False] < 2 / first.max()


def shares(lanes: int, global_batch: int) -> np.ndarray:
    """The share of label 1 in each 256 samples in a row, of a corpus whose second half has it; blocks of 256."""
    sizes = np.full(64, 1024)
    order = epoch_order(sizes, np.full(64, 256), seed=1, epoch=0, lanes=lanes)
    samples = in_steps(order, lanes=lanes, global_batch=global_batch).ravel()
    labels = samples >= sizes.sum() // 2
    return labels[: len(labels) // 256 * 256].reshape(-1, 256).mean(1)


def test_small_batches_of_a_sorted_corpus_are_as_mixed_as_by_chance():
    """0.5 ± 0.031, the spread of 256 draws, where 256 lanes take turns; as far as 0.2 off where a batch of 8 has 8."""
    assert shares(256, 8).std() < 1.1 * 0.5 / 16
    assert shares(8, 8).std() > 3 * 0.5 / 16
