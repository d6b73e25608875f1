"""Positions without a label: nothing to cross-entropy, fused or not, and left out of the means of labels."""

import math

import pytest
import torch
from torch import nn

from kdcache.losses.fused import FusedLoss
from kdcache.losses.metrics import FusedSums, measure
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.losses.unfused import loss_of_logits
from kdcache.models.wide_linear import WideLinear
from kdcache.targets.fields import NO_LABEL

LABELS_P = torch.tensor([3, NO_LABEL, 0, NO_LABEL, 19, 7])
CROSS_ENTROPIES = [
    {},
    {"temperature": 2.0},
    {"temperature": 0.5, "reduction": "class_mean"},
    {"temperature": 1.0, "temperature_schedule": "article"},
]


@pytest.mark.parametrize("settings", CROSS_ENTROPIES)
def test_value_and_gradient_are_those_of_the_labelled_alone(settings):
    terms = LossTerms([make_term(name="cross_entropy", **settings)], 20)
    student_PV, labelled_P = torch.randn(6, 20), LABELS_P >= 0
    got_PV, expected_PV = student_PV.clone(), student_PV[labelled_P]
    got_K = terms.value_and_gradient_(got_PV, Supervision(LABELS_P))
    expected_K = terms.value_and_gradient_(expected_PV, Supervision(LABELS_P[labelled_P]))
    torch.testing.assert_close(got_K, expected_K)
    torch.testing.assert_close(got_PV[labelled_P], expected_PV)
    assert (got_PV[~labelled_P] == 0).all()


@pytest.mark.parametrize("form", ["dense", "ghost", "sample", "factored"])
def test_a_divergence_beside_it_still_learns_there(teacher, price, form):
    """As torch's ignore_index has it: fused, unfused and autograd."""
    some, D = teacher(6, 20, form), 5
    terms = LossTerms([make_term(name="divergence", weight=0.6), make_term(name="cross_entropy", weight=0.4)], 20)
    supervision = Supervision(LABELS_P, some.targets)
    head, hidden_PD = nn.Linear(D, 23), torch.randn(6, D, requires_grad=True)
    head.__class__ = WideLinear
    fused, fused_K = head(hidden_PD, task=FusedLoss(terms, supervision, chunk=4))
    unfused, unfused_K = loss_of_logits(head(hidden_PD), terms, supervision, chunk=4)
    logits_PV = head(hidden_PD)
    kl_P = some.forward_kl(1.0, logits_PV[:, :20]) + price(logits_PV, 20)
    nll_P = nn.functional.cross_entropy(logits_PV.double(), LABELS_P, reduction="none")
    plain = 0.6 * kl_P.sum() + 0.4 * nll_P.sum()
    torch.testing.assert_close(fused_K, torch.stack([kl_P.sum(), nll_P.sum()]).detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(unfused_K, fused_K)
    leaves = (hidden_PD, head.weight, head.bias)
    expected = torch.autograd.grad(plain, leaves)
    for loss in (fused, unfused):
        torch.testing.assert_close(loss.double(), plain, rtol=1e-5, atol=1e-5)
        for got, oracle in zip(torch.autograd.grad(loss, leaves), expected, strict=True):
            torch.testing.assert_close(got, oracle, rtol=1e-5, atol=1e-5)


def test_a_batch_without_any_label_is_zero():
    terms = LossTerms([make_term(name="cross_entropy")], 20)
    logits_PV = torch.randn(6, 20)
    assert terms.value_and_gradient_(logits_PV, Supervision(torch.full((6,), NO_LABEL))).tolist() == [0.0]
    assert (logits_PV == 0).all()


def test_held_out_means_of_labels_are_over_the_labelled(teacher, price):
    some, labelled_P = teacher(6, 20, "dense"), LABELS_P >= 0
    supervision = Supervision(LABELS_P, some.targets)
    head, hidden_PD = nn.Linear(5, 23), torch.randn(6, 5)
    head.__class__ = WideLinear
    logits_PV = head(hidden_PD)
    sums = measure(logits_PV, supervision, chunk=4)
    torch.testing.assert_close(head(hidden_PD, task=FusedSums(supervision, chunk=4)), sums.vector)
    means, of_labelled = sums.means(), measure(logits_PV[labelled_P], supervision[labelled_P]).means()
    assert (means["positions"], means["labelled"]) == (6, 4)
    assert "labelled" not in of_labelled
    for name in ("label_nll", "teacher_label_nll", "accuracy"):
        assert means[name] == pytest.approx(of_labelled[name])
    kl_P = some.forward_kl(1.0, logits_PV[:, :20]) + price(logits_PV, 20)
    assert means["kl"] == pytest.approx(kl_P.mean().item(), rel=1e-5)


def test_no_label_at_all_leaves_the_teacher_to_compare_with(teacher):
    none_P = torch.full((6,), NO_LABEL)
    means = measure(torch.randn(6, 20), Supervision(none_P, teacher(6, 20, "dense").targets)).means()
    assert set(means) == {"positions", "labelled", "kl", "agreement"}
    assert not any(map(math.isnan, means.values()))
