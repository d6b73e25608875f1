"""Columns of a student above the teacher's classes: taught probability 0, and scored as the saved model has them."""

import pytest
import torch
from losses.conftest import surplus_price
from losses.test_fused import Tiny
from losses.test_kinds import CASES, plain, term

from kdcache.losses.distillation import distillation_loss
from kdcache.losses.fused import FusedLoss
from kdcache.losses.metrics import FusedSums, measure
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.losses.unfused import loss_of_logits
from kdcache.models.wide_linear import WideLinear

P, V, X = 7, 12, 5
LABELS_P = torch.arange(P)


@pytest.mark.parametrize(("form", "kind", "parameters"), CASES)
def test_every_kind_against_the_float64_oracle(teacher, form, kind, parameters):
    """The plain function and the closed form: the kind on the classes, and the mass that they lack."""
    some = teacher(P, V, form, seed=5)
    for temperature in (0.5, 2.0):
        student_PV = (torch.randn(P, V + X) * 2).requires_grad_()
        oracle_P = plain(some, form, kind, temperature, student_PV[:, :V], parameters)
        oracle_P = oracle_P + surplus_price(student_PV, V, temperature)
        (oracle_PV,) = torch.autograd.grad(oracle_P.sum(), student_PV)
        slack = 1e-5 * max(1, oracle_PV.abs().max().item())
        settings = {"temperature": temperature, "temperature_squared": False}
        got_P = distillation_loss(student_PV, some.targets, kind=kind, reduction="none", **settings, **parameters)
        (got_PV,) = torch.autograd.grad(got_P.sum(), student_PV)
        torch.testing.assert_close(got_P.double(), oracle_P, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got_PV, oracle_PV, rtol=1e-5, atol=slack)
        closed_PV, terms = student_PV.detach().clone(), LossTerms([term(kind, parameters, **settings)], V)
        sums_K = terms.value_and_gradient_(closed_PV, Supervision(LABELS_P, some.targets))
        torch.testing.assert_close(sums_K[0], oracle_P.sum().detach(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(closed_PV, oracle_PV, rtol=1e-5, atol=slack)


def test_of_forward_kl_and_labels_it_is_the_whole_softmax_with_probability_0_above(teacher):
    """By the formulas on all columns, which know nothing of a price."""
    some = teacher(P, V, "dense")
    student_PV = torch.randn(P, V + X, dtype=torch.float64, requires_grad=True)
    p_PV = torch.cat([some.logits_PV.double().softmax(-1), torch.zeros(P, X)], 1)
    kl = (torch.xlogy(p_PV, p_PV) - p_PV * student_PV.log_softmax(-1)).sum()
    expected = kl + 0.3 * torch.nn.functional.cross_entropy(student_PV, LABELS_P, reduction="sum")
    terms = LossTerms([term("forward_kl", {}), make_term(name="cross_entropy", weight=0.3)], V)
    loss, _ = loss_of_logits(student_PV, terms, Supervision(LABELS_P, some.targets), chunk=3)
    torch.testing.assert_close(loss, expected, rtol=1e-6, atol=1e-6)
    got_PV, expected_PV = (torch.autograd.grad(value, student_PV)[0] for value in (loss, expected))
    torch.testing.assert_close(got_PV, expected_PV, rtol=1e-6, atol=1e-6)


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("fused", [False, True])
def test_in_a_model_tied_or_not(teacher, price, tied, fused):
    """Gradients of all weights, the rows above the classes among them."""
    model = Tiny(tied, V=V + X)
    model.lm_head.__class__ = WideLinear
    ids_BL, flat_P = torch.randint(0, V + X, (2, 6)), torch.tensor([0, 1, 4, 5, 7, 8, 11])
    some = teacher(P, V, "ghost")
    terms = LossTerms([term("jsd", {}, temperature=2.0), make_term(name="cross_entropy", weight=0.3)], V)
    hidden_PD, supervision = model.hidden(ids_BL, flat_P), Supervision(LABELS_P, some.targets)
    if fused:
        loss, _ = model.lm_head(hidden_PD, task=FusedLoss(terms, supervision, chunk=3))
    else:
        loss, _ = loss_of_logits(model.lm_head(hidden_PD), terms, supervision, chunk=3)
    logits_PV = model.lm_head(model.hidden(ids_BL, flat_P))
    divergence_P = some.divergence("jsd", 2.0, logits_PV[:, :V]) + price(logits_PV, V, 2.0)
    expected = 4 * divergence_P.sum() + 0.3 * torch.nn.functional.cross_entropy(
        logits_PV.double(), LABELS_P, reduction="sum"
    )
    torch.testing.assert_close(loss.double(), expected, rtol=1e-5, atol=1e-5)
    weights = [*model.parameters()]
    got, oracle = (torch.autograd.grad(value, weights) for value in (loss, expected))
    for gradient, by_autograd in zip(got, oracle, strict=True):
        torch.testing.assert_close(gradient, by_autograd, rtol=1e-5, atol=1e-5)
    of_head = next(gradient for weight, gradient in zip(weights, got, strict=True) if weight is model.lm_head.weight)
    assert of_head[V:].abs().min() > 0


@pytest.mark.parametrize("surplus", [-torch.inf, -2e4, 2e4])
def test_far_below_they_cost_nothing_and_far_above_their_distance(teacher, surplus):
    some = teacher(P, V, "dense")
    narrow_PV = torch.randn(P, V)
    wide_PV = torch.cat([narrow_PV, torch.full((P, X), surplus)], 1)
    terms = LossTerms([term("forward_kl", {}), make_term(name="cross_entropy", temperature=2.0)], V)
    supervision = Supervision(LABELS_P, some.targets)
    sums_K, gradient_PV = terms.value_and_gradient_(wide_PV, supervision), wide_PV
    alone_K = terms.value_and_gradient_(narrow_PV.clone(), supervision)
    if surplus < 0:
        torch.testing.assert_close(sums_K, alone_K)
        assert (gradient_PV[:, V:] == 0).all()
    else:
        far_P = surplus + torch.tensor(float(X)).log() - narrow_PV.logsumexp(-1)
        torch.testing.assert_close(sums_K[0], (alone_K[0] + far_P.double().sum()))
        torch.testing.assert_close(gradient_PV[:, V:], torch.full((P, X), (1 + 4 * 0.5) / X), rtol=1e-4, atol=0)


def test_a_position_without_a_label_pays_nothing():
    wide_PV = torch.randn(2, V + X)
    terms = LossTerms([make_term(name="cross_entropy")], V)
    assert terms.value_and_gradient_(wide_PV, Supervision(torch.full((2,), -100))).tolist() == [0.0]
    assert (wide_PV == 0).all()


def test_a_student_of_the_classes_alone_pays_no_pass_for_it(teacher, monkeypatch):
    def never(*_):
        raise AssertionError("there is no surplus")

    monkeypatch.setattr("kdcache.losses.softmax.Surplus", never)
    monkeypatch.setattr("kdcache.losses.distillation.Surplus", never)
    some = teacher(P, V, "ghost")
    LossTerms([term("jsd", {})], V).value_and_gradient_(torch.randn(P, V), Supervision(LABELS_P, some.targets))
    distillation_loss(torch.randn(P, V), some.targets)


def test_held_out_measures_are_of_the_whole_softmax(teacher):
    some, D = teacher(P, V, "dense"), 5
    head, hidden_PD = torch.nn.Linear(D, V + X), torch.randn(P, D)
    head.__class__ = WideLinear
    logits_PV, supervision = head(hidden_PD), Supervision(LABELS_P, some.targets)
    with torch.no_grad():
        logits_PV[0, V] = head.bias[V] = 60.0  # the student's first choice is a class that does not exist
    vector = head(hidden_PD, task=FusedSums(supervision, chunk=3))
    logits_PV = head(hidden_PD).detach()
    torch.testing.assert_close(vector, measure(logits_PV, supervision).vector)
    means = measure(logits_PV, supervision).means()
    assert means["label_nll"] == pytest.approx(torch.nn.functional.cross_entropy(logits_PV, LABELS_P).item())
    assert means["label_nll"] > 50
    p_PV = some.logits_PV.double().softmax(-1)
    kl_P = (p_PV * (p_PV.log() - logits_PV.double().log_softmax(-1)[:, :V])).sum(-1)
    assert means["kl"] == pytest.approx(kl_P.mean().item(), rel=1e-5)
    assert means["accuracy"] == means["agreement"] == 0
