"""Held-out sums against the plain formulas; additive; the same fused and not."""

import math
from dataclasses import replace

import pytest
import torch

from kdcache.errors import ConfigError
from kdcache.losses.metrics import FusedSums, Sums, measure
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.models.wide_linear import WideLinear
from kdcache.targets.compress import compress
from kdcache.targets.curve_spec import CurveSpec
from kdcache.targets.sampled import Sampled
from kdcache.targets.top_k import TopK

P, V, D = 30, 25, 6


@pytest.fixture(params=["dense", "ghost", "sample"])
def scene(request, teacher):
    some = teacher(P, V, request.param, seed=1)
    labels_P = torch.randint(0, V, (P,))
    targets = some.targets
    if not targets.is_exact:
        targets = replace(targets, relative_label_P=some.logits_PV.gather(1, labels_P[:, None])[:, 0])
    return some, Supervision(labels_P, targets)


def test_means_are_the_plain_ones(scene):
    some, supervision = scene
    student_PV = some.logits_PV + torch.randn(P, V)
    means = measure(student_PV, supervision, temperature=2.0, chunk=7).means()
    labels_P = supervision.labels_P
    assert means["positions"] == P
    expected = {
        "label_nll": torch.nn.functional.cross_entropy(student_PV, labels_P).item(),
        "teacher_label_nll": torch.nn.functional.cross_entropy(some.logits_PV, labels_P).item(),
        "kl": some.forward_kl(2.0, student_PV).mean().item(),
        "agreement": (student_PV.argmax(-1) == some.logits_PV.argmax(-1)).float().mean().item(),
        "accuracy": (student_PV.argmax(-1) == labels_P).float().mean().item(),
    }
    assert 0 < expected["agreement"] < 1
    for name, value in expected.items():
        assert means[name] == pytest.approx(value, rel=1e-5), name


def test_fused_equals_unfused_also_with_padded_classes(scene):
    _, supervision = scene
    head, hidden_PD = torch.nn.Linear(D, V + 3), torch.randn(P, D, requires_grad=True)
    head.__class__ = WideLinear
    vector = head(hidden_PD, task=FusedSums(supervision, temperature=2.0, chunk=4))
    assert not vector.requires_grad
    torch.testing.assert_close(vector, measure(head(hidden_PD), supervision, temperature=2.0).vector)


def test_sums_of_parts_add_up(scene):
    some, supervision = scene
    parts = [measure(some.logits_PV[i : i + 11], supervision[i : i + 11]) for i in (0, 11, 22)]
    whole = measure(some.logits_PV, supervision)
    torch.testing.assert_close((parts[0] + parts[1] + parts[2]).vector, whole.vector)
    assert whole.means()["agreement"] == 1
    assert whole.means()["label_nll"] == pytest.approx(whole.means()["teacher_label_nll"], rel=1e-5)


@pytest.mark.parametrize("form", ["dense", "ghost", "renormalise"])
def test_the_teacher_itself_has_no_divergence(teacher, form):
    """Also where a loss would renormalise the entries, which the teacher itself does not minimise."""
    some = teacher(P, V, form)
    means = measure(some.logits_PV, Supervision(torch.zeros(P, dtype=torch.int64), some.targets)).means()
    assert means["kl"] == pytest.approx(0, abs=1e-6)


def test_labels_alone_give_what_labels_can():
    means = measure(torch.zeros(4, V), Supervision(torch.arange(4))).means()
    assert means == {"positions": 4, "label_nll": pytest.approx(math.log(V)), "accuracy": 0.25}


def test_no_positions_have_no_means():
    sums = measure(torch.zeros(0, V), Supervision(torch.zeros(0, dtype=torch.int64)))
    assert sums.means() == {"positions": 0}
    assert torch.equal(sums.vector, torch.zeros(len(Sums.names), dtype=torch.float64))


def test_a_cache_without_the_curve_at_1_has_no_teacher_loss():
    spec = TopK(k=4, curve=CurveSpec(temperatures=(2.0,)))
    logits_PV = torch.randn(3, V)
    supervision = Supervision(torch.arange(3), compress(logits_PV, spec))
    means = measure(logits_PV, supervision, temperature=2.0).means()
    assert "teacher_label_nll" not in means
    assert means["kl"] < 1e-3


def test_measures_and_the_loss_agree_on_a_term(scene):
    """The held-out KL is the training term at the same temperature."""
    _, supervision = scene
    student_PV = torch.randn(P, V)
    terms = LossTerms([make_term(name="divergence", temperature=2.0), make_term(name="cross_entropy")], V)
    sums_K = terms.value_and_gradient_(student_PV.clone(), supervision)
    means = measure(student_PV, supervision, temperature=2.0).means()
    assert [means["kl"] * P, means["label_nll"] * P] == pytest.approx(sums_K.tolist(), rel=1e-5)


def test_agreement_is_over_positions_whose_likeliest_class_is_known():
    """A sample without certain entries may have missed it; the teacher agrees with itself all the same."""
    logits_PV = torch.randn(400, 2000, generator=torch.Generator().manual_seed(0)) * 1.5
    spec = Sampled(exact_top_k=0, samples=21, curve=CurveSpec(temperatures=(1.0,)))
    targets = compress(logits_PV, spec)
    drawn_PE = torch.zeros_like(logits_PV).scatter(1, targets.ids_PE, (targets.inclusion_PE > 0).float())
    missed = (drawn_PE.gather(1, logits_PV.argmax(-1, keepdim=True)) == 0).sum().item()
    assert missed > 50
    supervision = Supervision(torch.zeros(400, dtype=torch.int64), targets)
    sums = measure(logits_PV, supervision)
    ranked = dict(zip(Sums.names, sums.vector.tolist(), strict=True))["ranked"]
    assert 0 < ranked <= 400 - missed
    assert sums.means()["agreement"] == 1.0
    with pytest.raises(ConfigError, match="may lack the teacher's likeliest class, expected it in each"):
        LossTerms([make_term(name="divergence", temperature_schedule="article", temperature=1.0)], 2000).check(targets)
