"""TailCurve against float64 tails, and its bounds."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdcache.errors import ConfigError
from kdcache.targets.curve import TailCurve

BETAS = (0.0, 0.225, 0.45, 0.675, 1.0, 1.35, 2.0)


def moments(tail_PV: Tensor, beta: float) -> tuple[Tensor, Tensor, Tensor]:
    tail_PV = tail_PV.double()
    value_P = (beta * tail_PV).logsumexp(-1)
    p_PV = (beta * tail_PV - value_P[:, None]).exp()
    mean_P = (p_PV * tail_PV).sum(-1)
    return value_P, mean_P, (p_PV * tail_PV**2).sum(-1) - mean_P**2


def curve_of(tail_PV: Tensor, betas: tuple[float, ...] = BETAS) -> TailCurve:
    value, mean, variance = (torch.stack(m, 1) for m in zip(*(moments(tail_PV, b) for b in betas), strict=True))
    temperatures = tuple(1 / b if b else float("inf") for b in betas)
    return TailCurve(temperatures, value, mean, variance, ceiling_P=tail_PV.double().amax(-1))


@pytest.fixture
def tail(rows: Callable[..., Tensor]) -> Tensor:
    return torch.cat([rows(shape, 12, 6_000).sort(descending=True).values[:, 8:] for shape in ("zipf", "two_kinds")])


def test_stored_points_come_back(tail: Tensor) -> None:
    curve = curve_of(tail)
    for beta in BETAS[1:]:
        value_P, mean_P, _ = moments(tail, beta)
        torch.testing.assert_close(curve.at(1 / beta), (value_P, mean_P), rtol=1e-12, atol=1e-9)


def test_between_nodes_it_follows_the_tail(tail: Tensor) -> None:
    curve = curve_of(tail)
    for temperature in torch.linspace(0.5, 8, 60).tolist():
        value_P, mean_P, _ = moments(tail, 1 / temperature)
        value, mean = curve.at(temperature)
        assert (value - value_P).abs().max() < 1e-3
        assert (mean - mean_P).abs().max() < 1e-2


def test_a_quintic_is_met_exactly() -> None:
    """Value, slope and curvature at both ends determine a polynomial of degree five."""
    c = torch.tensor([0.3, -1.0, 2.0, 0.2, 0.1, 0.05], dtype=torch.float64)
    x = torch.tensor([0.5, 1.0], dtype=torch.float64)
    value, slope, bend = (
        sum(f(k) * c[k] * x ** max(k - d, 0) for k in range(d, 6))
        for d, f in enumerate((lambda k: 1, lambda k: k, lambda k: k * (k - 1)))
    )
    curve = TailCurve((2.0, 1.0), value[None], slope[None], bend[None])
    for beta in (0.6, 0.7, 0.75, 0.9):
        got, got_slope = curve._quintic(0, beta)
        assert abs(got.item() - sum(c[k] * beta**k for k in range(6)).item()) < 1e-12
        assert abs(got_slope.item() - sum(k * c[k] * beta ** (k - 1) for k in range(1, 6)).item()) < 1e-11


def test_the_mean_is_the_slope_of_the_value(tail: Tensor) -> None:
    curve, step = curve_of(tail), 1e-5
    for beta in (0.1, 0.3, 0.6, 0.9, 1.2, 1.7, 2.5, 4.0):
        ahead, behind = curve.at(1 / (beta + step))[0], curve.at(1 / (beta - step))[0]
        torch.testing.assert_close((ahead - behind) / (2 * step), curve.at(1 / beta)[1], rtol=1e-6, atol=1e-5)


def test_tangents_and_chord_enclose_the_truth(tail: Tensor) -> None:
    coarse = curve_of(tail, (0.0, 1.0, 2.0))
    for beta in (0.05, 0.3, 0.8, 1.2, 1.9, 3.0, 10.0):
        lower, upper = coarse.bracket(1 / beta)
        value_P = moments(tail, beta)[0]
        assert (lower <= value_P + 1e-9).all()
        assert (value_P <= upper + 1e-9).all()
        assert (lower - 1e-9 <= coarse.at(1 / beta)[0]).all()
        assert (coarse.at(1 / beta)[0] <= upper + 1e-9).all()


def test_an_empty_tail_has_no_mass() -> None:
    curve = TailCurve((float("inf"), 1.0), torch.tensor([[-torch.inf] * 2]), torch.zeros(1, 2), torch.zeros(1, 2))
    for temperature in (1.0, 3.0):
        assert curve.at(temperature) == (torch.tensor([-torch.inf]), torch.tensor([0.0]))


def test_single_temperatures_answer_themselves_only() -> None:
    curve = TailCurve((1.0, 2.0), torch.zeros(1, 2), torch.zeros(1, 2))
    assert curve.at(2.0)[0] == 0
    with pytest.raises(ConfigError, match=r"temperature 1.5 is not in the cache: its records store 1, 2; use one"):
        curve.at(1.5)


def test_positions_can_be_picked(tail: Tensor) -> None:
    for beta in (0.45, 0.8):
        value, mean = curve_of(tail)[3:9].at(1 / beta)
        torch.testing.assert_close(value, moments(tail, beta)[0][3:9], rtol=0, atol=1e-3)
        torch.testing.assert_close(mean, moments(tail, beta)[1][3:9], rtol=0, atol=1e-2)
