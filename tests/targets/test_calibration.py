"""A basis spans a teacher's logits: at full rank nothing is lost but rounding, below as little as any basis can."""

import pytest
import torch
from torch import Tensor

from kdcache.errors import ConfigError, TeacherError
from kdcache.targets.calibration import Encoder, make_basis
from kdcache.targets.output_layer import OutputLayer

V, D = 400, 24
HEADS = {
    "plain": {},
    "bias": {"bias": True},
    "soft-cap": {"soft_cap": 5.0},
    "scale": {"scale": 0.3},
    "all": {"bias": True, "soft_cap": 6.0, "scale": 2.0},
}


def scene(bias: bool = False, seed: int = 0, **settings: float) -> tuple[OutputLayer, Tensor]:
    """A head and hidden states of unequal spread around a centre far from 0."""
    rng = torch.Generator().manual_seed(seed)
    weight_VD = torch.randn(V, D, generator=rng) * 3 / D**0.5
    bias_V = torch.randn(V, generator=rng) * 2 if bias else None
    mixing_DD = torch.randn(D, D, generator=rng) / D**0.5 * torch.linspace(2, 0.1, D)
    hidden_ND = torch.randn(3000, D, generator=rng) @ mixing_DD + torch.randn(D, generator=rng)
    return OutputLayer(weight_VD, bias_V, **settings), hidden_ND


def exact_logits(layer: OutputLayer, hidden_PD: Tensor) -> Tensor:
    logits_PV = hidden_PD.double() @ layer.weight_VD.double().T
    if layer.bias_V is not None:
        logits_PV = logits_PV + layer.bias_V.double()
    logits_PV = logits_PV * layer.scale
    return logits_PV if layer.soft_cap is None else layer.soft_cap * (logits_PV / layer.soft_cap).tanh()


def without_constant(layer: OutputLayer, error_PV: Tensor) -> Tensor:
    return error_PV if layer.soft_cap is not None else error_PV - error_PV.mean(-1, keepdim=True)


@pytest.mark.parametrize("name", HEADS)
def test_full_rank_is_exact_up_to_rounding(name: str) -> None:
    layer, hidden_ND = scene(**HEADS[name])
    held_PD = hidden_ND[:500]
    basis = make_basis(layer, hidden_ND[500:], "full")
    assert basis.rank == D
    coefficients_PR = Encoder(basis, layer).coefficients(held_PD)
    exact_PV = exact_logits(layer, held_PD)
    error_PV = without_constant(layer, basis.logits(coefficients_PR) - exact_PV)
    assert error_PV.square().mean().sqrt() < 0.08
    # Half a step of each direction is all that int8 may cost; float16 adds a little.
    assert (error_PV.abs() <= 0.51 * basis.basis_VR.double().abs().sum(1) + 0.02).all()
    torch.testing.assert_close(layer.logits(held_PD).double(), exact_PV, rtol=1e-4, atol=1e-4)


@pytest.mark.parametrize("rank", [1, 4, 12])
def test_lower_ranks_keep_the_principal_directions(rank: int) -> None:
    """The error on the calibration rows is that of the truncated singular value decomposition, and the rounding's."""
    layer, hidden_ND = scene(bias=True)
    basis = make_basis(layer, hidden_ND, rank)
    exact_NV = exact_logits(layer, hidden_ND)
    error_NV = without_constant(layer, basis.logits(Encoder(basis, layer).coefficients(hidden_ND)) - exact_NV)
    spread_NV = exact_NV - exact_NV.mean(-1, keepdim=True)
    best = torch.linalg.svdvals(spread_NV - spread_NV.mean(0))[rank:].square().sum()
    assert best <= error_NV.square().sum() * (1 + 1e-4)
    assert error_NV.square().sum() <= 1.06 * best


def test_steps_leave_room_and_spend_no_bits_on_weak_directions() -> None:
    layer, hidden_ND = scene()
    coefficients_NR = Encoder(make_basis(layer, hidden_ND, 12), layer).coefficients(hidden_ND)
    assert coefficients_NR.abs().max() < 127
    deviation_R = coefficients_NR.float().std(0)
    assert deviation_R[0] == deviation_R.max()
    assert deviation_R[-1] < deviation_R[0] / 2


def test_the_same_inputs_give_the_same_bytes_and_scaled_ones_the_same_signs() -> None:
    layer, hidden_ND = scene()
    first, again = (make_basis(layer, hidden_ND, "full") for _ in range(2))
    assert torch.equal(first.basis_VR, again.basis_VR)
    assert torch.equal(first.mean_V, again.mean_V)
    nudged = make_basis(layer, hidden_ND + 1e-6, 4)
    torch.testing.assert_close(nudged.basis_VR, make_basis(layer, hidden_ND, 4).basis_VR, rtol=1e-2, atol=1e-4)


def test_fewer_rows_than_directions_still_say_everything() -> None:
    """Directions in which no calibration row moves have coefficients too."""
    layer, hidden_ND = scene()
    basis = make_basis(layer, hidden_ND[:5], "full")
    assert basis.rank == D
    exact_PV = exact_logits(layer, hidden_ND[:50])
    error_PV = without_constant(layer, basis.logits(Encoder(basis, layer).coefficients(hidden_ND[:50])) - exact_PV)
    assert error_PV.square().mean() < 0.05 * exact_PV.var()


def test_padding_rows_of_the_weight_take_no_part() -> None:
    layer, hidden_ND = scene(bias=True)
    assert layer.bias_V is not None
    padded = OutputLayer(
        torch.cat([layer.weight_VD, torch.full((8, D), 1e3)]), torch.cat([layer.bias_V, torch.full((8,), -1e9)])
    )
    wide, narrow = make_basis(padded, hidden_ND, 4, num_classes=V), make_basis(layer, hidden_ND, 4)
    assert torch.equal(wide.basis_VR, narrow.basis_VR)
    assert torch.equal(wide.mean_V, narrow.mean_V)


def test_more_directions_than_classes_are_those_of_the_classes() -> None:
    layer = OutputLayer(torch.randn(5, D, generator=torch.Generator().manual_seed(0)))
    hidden_ND = scene()[1]
    basis = make_basis(layer, hidden_ND, "full")
    assert basis.rank == 4
    error_NV = basis.logits(Encoder(basis, layer).coefficients(hidden_ND)) - exact_logits(layer, hidden_ND)
    assert without_constant(layer, error_NV).square().mean().sqrt() < 0.08


def test_one_copy_of_a_basis_on_each_device() -> None:
    layer, hidden_ND = scene()
    basis = make_basis(layer, hidden_ND, 2)
    assert basis.to("cpu") is basis
    meta = basis.to("meta")
    assert meta is basis.to(torch.device("meta"))
    assert meta.basis_VR.is_meta


def test_what_is_refused() -> None:
    layer, hidden_ND = scene()
    with pytest.raises(ConfigError, match=r"got record.rank 25, expected at most 24.*use full"):
        make_basis(layer, hidden_ND, 25)
    with pytest.raises(ConfigError, match=r"got calibration hidden states \[3000, 23\], expected \[2 or more, 24\]"):
        make_basis(layer, hidden_ND[:, 1:], 2)
    with pytest.raises(ConfigError, match=r"got an output layer of weight \[400, 24\] and bias \[3\]"):
        OutputLayer(layer.weight_VD, torch.zeros(3))
    with pytest.raises(TeacherError, match=r"not its output layer's of its hidden states .*use another record.kind"):
        layer.check(hidden_ND[:3], 2 * layer.logits(hidden_ND[:3]))
    layer.check(hidden_ND[:3], layer.logits(hidden_ND[:3])[:, :300])
