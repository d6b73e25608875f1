"""What records are worth, against the whole distribution they were made of."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdcache.targets.compress import compress
from kdcache.targets.dense import Dense
from kdcache.targets.noise import advice, worth_at
from kdcache.targets.sampled import Sampled
from kdcache.targets.top_k import TopK

Rows = Callable[..., Tensor]
Plain = Callable[[Tensor, float], tuple[Tensor, Tensor, Tensor]]


@pytest.mark.parametrize("temperature", [0.7, 1.0, 2.0])
def test_figures_are_those_of_the_distribution(rows: Rows, plain: Plain, temperature: float) -> None:
    logits_PV = torch.cat([rows("zipf", 300, 2_000, seed=s) for s in range(4)])
    targets = compress(logits_PV, Sampled(logit_dtype="float32"))
    worth = worth_at(targets, temperature)
    p_PV = plain(logits_PV, temperature)[0].exp()
    p_PE = p_PV.gather(1, targets.ids_PE)
    kept_PE, certain_PE = targets.inclusion_PE > 0, targets.certain_PE()
    assert worth.coverage == pytest.approx((p_PE * kept_PE).sum(1).mean().item(), abs=1e-3)
    assert worth.tail_mass == pytest.approx(1 - (p_PE * certain_PE).sum(1).mean().item(), abs=2e-3)
    weights_PV = torch.zeros_like(p_PV).scatter_add_(
        1, targets.ids_PE, targets.weights(temperature, "horvitz_thompson").double()
    )
    measured = ((weights_PV - p_PV) ** 2).sum() / (p_PV**2).sum()
    assert worth.gradient_noise == pytest.approx(measured.item(), rel=0.3)
    assert worth.effective_samples is not None
    assert 1 <= worth.effective_samples <= 25


def test_advice_comes_where_it_is_noisy(rows: Rows) -> None:
    logits_PV = rows("normal", 50, 3_000)
    targets = compress(logits_PV, Sampled())
    assert advice(worth_at(targets, 0.5), sampled=True) is None
    hot = advice(worth_at(targets, 6.0), sampled=True)
    assert hot is not None
    assert "at temperature 6 sampling adds noise" in hot
    assert "lower the term's temperature towards 1" in hot
    few = advice(worth_at(compress(rows("normal", 50, 3_000), Sampled(exact_top_k=1, samples=1)), 1.0), sampled=True)
    assert few is not None
    assert "lower the term's temperature" not in few
    ghost = worth_at(compress(logits_PV, TopK(k=8)), 2.0)
    assert (ghost.effective_samples, ghost.gradient_noise) == (None, 0.0)
    found = advice(ghost, sampled=False)
    assert found is not None
    assert "lies outside the certain entries" in found


def test_dense_records_are_worth_everything(rows: Rows) -> None:
    worth = worth_at(compress(rows("zipf", 5, 100), Dense(logit_dtype="float32")), 4.0)
    assert worth.coverage == pytest.approx(1.0)
    assert (worth.tail_mass, worth.gradient_noise, worth.effective_samples) == (0.0, 0.0, None)
    assert advice(worth, sampled=False) is None
