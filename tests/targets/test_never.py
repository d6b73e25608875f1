"""Classes that a teacher bans with logits of −inf have probability 0 at every temperature, in every kind of record."""

from collections.abc import Callable

import pytest
import torch
from torch import Tensor

from kdcache.errors import TeacherError
from kdcache.losses.distillation import distillation_loss
from kdcache.targets.calibration import Encoder, make_basis
from kdcache.targets.compress import compress
from kdcache.targets.dense import Dense
from kdcache.targets.factored import Factored
from kdcache.targets.output_layer import OutputLayer
from kdcache.targets.record import TeacherTargets
from kdcache.targets.sampled import Sampled
from kdcache.targets.top_k import TopK

TEMPERATURES = (0.5, 1.0, 2.0, 8.0, 100.0)
V, P, D = 1300, 12, 16
SPECS = {
    "float32": Dense(logit_dtype="float32"),
    "float16": Dense(),
    "uint16": Dense(logit_dtype="uint16"),
    "sampled": Sampled(),
    "uint8": Sampled(logit_dtype="uint8"),
    "many": Sampled(exact_top_k=600, samples=40),
    "top-k": TopK(k=30),
    "renormalised": TopK(k=1200, tail="renormalise"),
}
DENSE = ("float32", "float16", "uint16")


def banned(rows: Callable[..., Tensor]) -> tuple[Tensor, Tensor]:
    """Rows that allow a third of the classes, 400, 5, 2 and a single one; and which are banned."""
    logits_PV = rows("zipf", P, V)
    never_PV = torch.zeros(P, V, dtype=torch.bool)
    never_PV[:, ::3] = True
    for row, allowed in ((1, 400), (2, 5), (3, 2), (4, 1)):
        never_PV[row] = True
        never_PV[row, torch.randperm(V, generator=torch.Generator().manual_seed(row))[:allowed]] = False
    never_PV[5] = False
    return logits_PV.masked_fill(never_PV, -torch.inf), never_PV


def oracle(logits_PV: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """(p [P, V], log-partition [P], entropy [P]) in float64."""
    scaled_PV = logits_PV.double() / temperature
    p_PV = scaled_PV.softmax(-1)
    return p_PV, scaled_PV.logsumexp(-1), -torch.xlogy(p_PV, p_PV).sum(-1)


@pytest.mark.parametrize("name", [*SPECS])
@pytest.mark.parametrize("standing_for", [-torch.inf, torch.finfo(torch.float32).min])
def test_normaliser_and_entropy_do_without_them(
    rows: Callable[..., Tensor], compression: str, name: str, standing_for: float
) -> None:
    logits_PV, never_PV = banned(rows)
    targets = compress(logits_PV.masked_fill(never_PV, standing_for), SPECS[name])
    for temperature in TEMPERATURES:
        p_PV, log_partition_P, entropy_P = oracle(logits_PV, temperature)
        tolerance = 3e-2 if name == "uint8" else 6e-3
        torch.testing.assert_close(targets.log_partition(temperature).double(), log_partition_P, rtol=0, atol=tolerance)
        torch.testing.assert_close(targets.entropy(temperature).double(), entropy_P, rtol=0, atol=3e-2)
        if name in DENSE:
            got_PV = targets.dense_log_probs(temperature)
            assert (got_PV[never_PV].exp() == 0).all()
            torch.testing.assert_close(got_PV.double().exp(), p_PV, rtol=0, atol=2e-3)
            assert targets.dense_probs(temperature)[1].isfinite().all()
        else:
            kept_PE = targets.inclusion_PE > 0
            assert not never_PV.gather(1, targets.ids_PE)[kept_PE].any()
            totals_P = targets.weights(temperature).sum(-1)
            if name == "many" or name == "sampled":
                torch.testing.assert_close(totals_P, torch.ones(P), rtol=0, atol=1e-4)


@pytest.mark.parametrize("name", ["sampled", "top-k"])
def test_a_row_of_few_classes_is_all_entries_and_no_tail(
    rows: Callable[..., Tensor], compression: str, name: str
) -> None:
    logits_PV, never_PV = banned(rows)
    targets = compress(logits_PV, SPECS[name])
    assert targets.num_certain_P[2:5].tolist() == [5, 2, 1]
    assert targets.tail_mass(100.0)[2:5].tolist() == [0.0] * 3
    assert targets.effective_samples(1.0)[2:5].isinf().all()
    for row in (2, 3, 4):
        kept = targets.ids_PE[row][targets.inclusion_PE[row] > 0]
        assert sorted(kept.tolist()) == (~never_PV[row]).nonzero()[:, 0].tolist()


@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd", "tvd"])
@pytest.mark.parametrize("name", ["uint16", "sampled", "top-k"])
def test_divergences_and_their_gradients_are_finite(rows: Callable[..., Tensor], kind: str, name: str) -> None:
    """And forward KL of a dense record is the oracle's."""
    logits_PV, _ = banned(rows)
    targets = compress(logits_PV, SPECS[name])
    student_PV = torch.randn(P, V, generator=torch.Generator().manual_seed(0)).requires_grad_()
    for temperature in (1.0, 8.0):
        loss_P = distillation_loss(student_PV, targets, kind=kind, temperature=temperature, reduction="none")
        loss_P.sum().backward()
        assert student_PV.grad is not None
        assert student_PV.grad.isfinite().all()
        if kind == "forward_kl" and name == "uint16":
            p_PV, _, entropy_P = oracle(logits_PV, temperature)
            log_q_PV = (student_PV.detach().double() / temperature).log_softmax(-1)
            expected_P = (-(p_PV * log_q_PV).sum(-1) - entropy_P) * temperature**2
            torch.testing.assert_close(loss_P.detach().double(), expected_P, rtol=5e-3, atol=5e-3)


@pytest.mark.parametrize("bad", [float("nan"), float("inf"), None])
@pytest.mark.parametrize("name", ["sampled", "uint16"])
def test_what_is_refused_beside_them(
    rows: Callable[..., Tensor], compression: str, bad: float | None, name: str
) -> None:
    """NaN, +inf, and a row that bans every class; the message says that −inf is a way."""
    logits_PV, _ = banned(rows)
    logits_PV[7, 5 if bad is not None else slice(None)] = -torch.inf if bad is None else bad
    with pytest.raises(
        TeacherError, match=r"infinite logits in row 7 of 12, expected finite ones, or −inf for classes"
    ):
        compress(logits_PV, SPECS[name])


def factored(rank: int | str, soft_cap: float | None, samples: int = 0) -> tuple[Tensor, Tensor, TeacherTargets]:
    rng = torch.Generator().manual_seed(0)
    never_V = torch.arange(V) % 3 == 0
    bias_V = torch.randn(V, generator=rng).masked_fill(never_V, -torch.inf)
    layer = OutputLayer(torch.randn(V, D, generator=rng) * 2.5 / D**0.5, bias_V, soft_cap)
    hidden_ND = torch.randn(600, D, generator=rng)
    basis = make_basis(layer, hidden_ND[P:], rank)  # type: ignore[arg-type]
    encoder = Encoder(basis, layer)
    logits_PV = layer.logits(hidden_ND[:P])
    layer.check(hidden_ND[:P], logits_PV)
    encoder.check_never(logits_PV)
    spec = Factored(rank=rank, samples=samples)
    targets = compress(logits_PV, spec, hidden_PD=hidden_ND[:P], encoder=encoder)
    return logits_PV, never_V, targets


@pytest.mark.parametrize("soft_cap", [None, 20.0])
@pytest.mark.parametrize("rank", [8, "full"])
def test_a_factored_tail_leaves_out_banned_columns(rank: int | str, soft_cap: float | None) -> None:
    if rank == "full" and soft_cap:
        pytest.skip("a soft-capped row is not linear in its hidden state")
    logits_PV, never_V, targets = factored(rank, soft_cap)
    for temperature in TEMPERATURES:
        p_PV, _, _ = oracle(logits_PV, temperature)
        got_PV, negative_entropy_P = targets.dense_probs(temperature)
        log_PV = targets.dense_log_probs(temperature)
        assert (got_PV[:, never_V] == 0).all()
        assert (log_PV[:, never_V].exp() == 0).all()
        assert log_PV.isfinite().all()
        torch.testing.assert_close(got_PV.sum(-1), torch.ones(P), rtol=0, atol=1e-4)
        torch.testing.assert_close(negative_entropy_P, (log_PV.exp() * log_PV).sum(-1), rtol=1e-4, atol=1e-4)
        if rank == "full":
            exact_PV = p_PV.clamp(min=1e-300).log()
            assert (p_PV * (exact_PV - log_PV)).sum(-1).mean() < 2e-3


def test_a_factor_has_one_set_of_banned_classes() -> None:
    logits_PV, _, targets = factored(8, None)
    assert targets.basis is not None
    layer = OutputLayer(torch.randn(V, D), torch.zeros(V).masked_fill(targets.basis.mean_V.isneginf(), -torch.inf))
    encoder = Encoder(targets.basis, layer)
    logits_PV[3, 1] = -torch.inf
    with pytest.raises(TeacherError, match=r"bans other classes .* at some positions than at others"):
        encoder.check_never(logits_PV)
