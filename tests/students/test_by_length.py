"""The gradient of a step, however its examples are cut into micro-batches and shared among ranks."""

from collections.abc import Iterable
from typing import Any

import numpy as np
import pytest
import torch
from train.tiny import student_config, write_cache

import kdcache

STEPS = 3


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> kdcache.Cache:
    return kdcache.open_cache(write_cache(tmp_path_factory.mktemp("ragged") / "cache", unsupervised=0.1))


def learn(cache: kdcache.Cache, steps: Iterable[list[kdcache.Batch]]) -> torch.Tensor:
    """All parameters after these steps, each the sum of its micro-batches' losses over the positions of all of them."""
    student: Any = kdcache.make_student(kdcache.StudentConfig(config=student_config()), cache, seed=0)
    model, collate = kdcache.with_loss(student), kdcache.Collator(student, cache)
    terms = kdcache.loss_terms([{"name": "divergence"}, {"name": "cross_entropy"}], cache)
    optimizer = torch.optim.SGD(student.parameters(), lr=0.5)
    for step in steps:
        positions = sum(batch.num_positions for batch in step)
        for batch in step:
            (model(collate(batch), terms)[0] / positions).backward()
        optimizer.step()
        optimizer.zero_grad()
    return torch.cat([parameter.detach().flatten() for parameter in student.parameters()])


def loaded(cache: kdcache.Cache, world_size: int, micro_batch: int) -> list[list[kdcache.Batch]]:
    """The micro-batches of all ranks, step after step."""
    sizes = {"global_batch": 16, "micro_batch": micro_batch, "world_size": world_size}
    ranks = [kdcache.Loader(cache, **sizes, rank=rank) for rank in range(world_size)]
    steps = [[batch for rank in ranks for batch in next(rank)] for _ in range(STEPS)]
    for rank in ranks:
        rank.close()
    return steps


@pytest.mark.parametrize(("world_size", "micro_batch"), [(1, 2), (1, 4), (2, 2), (2, 8), (4, 4)])
def test_the_parameters_do_not_depend_on_how_a_step_is_cut(
    cache: kdcache.Cache, world_size: int, micro_batch: int
) -> None:
    """Sorted by length and cut, against the same examples in one batch and in an order by chance."""
    (whole,) = zip(*loaded(cache, 1, 16), strict=True)
    rng = np.random.default_rng(0)
    by_chance = [[batch.take(part) for part in rng.permutation(16).reshape(8, 2)] for batch in whole]
    steps = loaded(cache, world_size, micro_batch)
    assert all(len(batch) == micro_batch for step in steps for batch in step)
    expected = learn(cache, ([batch] for batch in whole))
    torch.testing.assert_close(learn(cache, by_chance), expected, rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(learn(cache, steps), expected, rtol=1e-5, atol=1e-6)
