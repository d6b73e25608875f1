"""Entropy weights and entropy matching against the formulas in float64, for every form of record, fused and not."""

import math

import pytest
import torch
from torch import nn

from kdcache.errors import ConfigError
from kdcache.losses.fused import FusedLoss
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.losses.unfused import loss_of_logits
from kdcache.models.wide_linear import WideLinear
from kdcache.targets.compress import compress
from kdcache.targets.curve_spec import CurveSpec
from kdcache.targets.dense import Dense
from kdcache.targets.fields import NO_LABEL
from kdcache.targets.sampled import Sampled
from kdcache.targets.top_k import TopK

FORMS = ["dense", "factored", "ghost", "renormalise", "sample"]
WEIGHTED = [
    {"name": "divergence", "temperature": 2.0},
    {"name": "divergence", "kind": "reverse_kl"},
    {"name": "divergence", "temperature_schedule": "article", "temperature": 0.5},
    {"name": "cross_entropy"},
]


def entropy(logits_PV, temperature):
    log_p_PV = (logits_PV.double() / temperature).log_softmax(-1)
    return -(log_p_PV.exp() * log_p_PV).sum(-1)


def weights(teacher_PV, student_PV, temperature):
    share_P = entropy(student_PV, temperature) / math.log(student_PV.shape[1])
    return entropy(teacher_PV, temperature) * (1 + share_P) / 2


def sums_and_gradient(terms, student_PV, supervision, weights_PK=None):
    gradient_PV = student_PV.detach().clone()
    return terms.value_and_gradient_(gradient_PV, supervision, weights_PK), gradient_PV


def fused_head(D, V):
    head = nn.Linear(D, V)
    head.__class__ = WideLinear
    return head


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("settings", WEIGHTED)
@pytest.mark.parametrize("temperature", [1.0, 2.0])
def test_weights_are_the_formulas_and_constants_for_the_gradient(teacher, form, settings, temperature):
    """The same term of weights that are given: its sums and its gradient."""
    some, student_PV = teacher(7, 30, form), torch.randn(7, 30) * 2
    supervision = Supervision(torch.randint(0, 30, (7,)), some.targets)
    weighted = make_term(weighting="entropy", entropy_temperature=temperature, **settings)
    got = sums_and_gradient(LossTerms([weighted], 30), student_PV, supervision)
    weights_P1 = weights(some.logits_PV, student_PV, temperature)[:, None]
    assert weights_P1.max() > 1.3 * weights_P1.min()
    expected = sums_and_gradient(LossTerms([make_term(**settings)], 30), student_PV, supervision, weights_P1)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


def test_weights_among_other_terms_and_given_ones(teacher):
    """Of five terms three are weighted, at two temperatures; each position and term has another weight besides."""
    some, student_PV = teacher(7, 30, "ghost"), torch.randn(7, 30) * 2
    supervision, given_PK = Supervision(torch.randint(0, 30, (7,)), some.targets), torch.rand(7, 5)
    plain = [
        {"name": "divergence", "temperature": 2.0},
        {"name": "divergence", "kind": "jsd", "temperature": 0.5},
        {"name": "cross_entropy", "weight": 0.3},
        {"name": "entropy", "temperature": 2.0},
        {"name": "divergence"},
    ]
    at = {0: 2.0, 2: 0.5, 4: 2.0}
    terms = [
        make_term(**settings, **({"weighting": "entropy", "entropy_temperature": at[k]} if k in at else {}))
        for k, settings in enumerate(plain)
    ]
    weights_PK = given_PK.double()
    for k, temperature in at.items():
        weights_PK[:, k] *= weights(some.logits_PV, student_PV, temperature)
    got = sums_and_gradient(LossTerms(terms, 30), student_PV, supervision, given_PK)
    expected = sums_and_gradient(LossTerms([make_term(**s) for s in plain], 30), student_PV, supervision, weights_PK)
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
def test_matching_is_the_squared_difference(teacher, form, temperature):
    some = teacher(7, 30, form)
    student_PV = (torch.randn(7, 30, dtype=torch.float64) * 2).requires_grad_()
    oracle_P = (entropy(student_PV, temperature) - entropy(some.logits_PV, temperature)) ** 2
    (oracle_PV,) = torch.autograd.grad(oracle_P.sum() * temperature**2 * 0.7, student_PV)
    assert oracle_PV.abs().max() > 0.02
    supervision = Supervision(torch.zeros(7, dtype=torch.int64), some.targets)
    terms = LossTerms([make_term(name="entropy", temperature=temperature, weight=0.7)], 30)
    sums_K, gradient_PV = sums_and_gradient(terms, student_PV.float(), supervision)
    torch.testing.assert_close(sums_K[0], oracle_P.sum().detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(terms.total(sums_K), 0.7 * temperature**2 * sums_K[0])
    torch.testing.assert_close(gradient_PV.double(), oracle_PV, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
def test_gradients_in_float64(teacher, form):
    """Finite differences; of a weighted term with its weights held where they are."""
    some, student_PV = teacher(5, 9, form), torch.randn(5, 9, dtype=torch.float64, requires_grad=True)
    supervision = Supervision(torch.arange(5), some.targets)
    matching = LossTerms([make_term(name="entropy", temperature=2.0), make_term(name="entropy", weight=0.3)], 9)
    assert torch.autograd.gradcheck(
        lambda logits: loss_of_logits(logits, matching, supervision, chunk=2)[0], student_PV
    )
    weights_P1 = weights(some.logits_PV, student_PV.detach(), 2.0)[:, None]
    plain = LossTerms([make_term(name="divergence", temperature=2.0)], 9)
    assert torch.autograd.gradcheck(
        lambda logits: loss_of_logits(logits, plain, supervision, chunk=2, weights_PK=weights_P1)[0], student_PV
    )
    weighted = make_term(name="divergence", temperature=2.0, weighting="entropy", entropy_temperature=2.0)
    loss, _ = loss_of_logits(student_PV, LossTerms([weighted], 9), supervision, chunk=2)
    held, _ = loss_of_logits(student_PV, plain, supervision, weights_PK=weights_P1)
    torch.testing.assert_close(
        *(torch.autograd.grad(value, student_PV)[0] for value in (loss, held)), rtol=1e-5, atol=1e-6
    )


@pytest.mark.parametrize("form", FORMS)
def test_fused_equals_unfused_equals_autograd(teacher, price, form):
    P, D, V = 9, 5, 12
    some, labels_P = teacher(P, V, form), torch.randint(0, V, (P,))
    labels_P[::4] = NO_LABEL
    head, hidden_PD = fused_head(D, V + 3), torch.randn(P, D, requires_grad=True)
    terms = LossTerms(
        [
            make_term(name="divergence", temperature=2.0, weighting="entropy", entropy_temperature=2.0, weight=0.5),
            make_term(name="entropy", weight=0.4),
            make_term(name="cross_entropy", weighting="entropy", entropy_temperature=1.0),
        ],
        V,
    )
    supervision = Supervision(labels_P, some.targets)
    fused, fused_K = head(hidden_PD, task=FusedLoss(terms, supervision, chunk=4))
    unfused, unfused_K = loss_of_logits(head(hidden_PD), terms, supervision, chunk=4)
    wide_PV = head(hidden_PD).double()
    logits_PV = wide_PV[:, :V]
    kl_P = some.forward_kl(2.0, logits_PV) + price(wide_PV, V, 2.0)
    kl_P = kl_P * weights(some.logits_PV, logits_PV.detach(), 2.0)
    gap_P = (entropy(logits_PV, 1.0) - entropy(some.logits_PV, 1.0)) ** 2
    nll_P = nn.functional.cross_entropy(wide_PV, labels_P, reduction="none")
    nll_P = nll_P * weights(some.logits_PV, logits_PV.detach(), 1.0)
    plain = (0.5 * 4 * kl_P + 0.4 * gap_P + nll_P).sum()
    torch.testing.assert_close(fused_K, torch.stack([kl_P, gap_P, nll_P]).sum(-1).detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(unfused_K, fused_K)
    leaves = (hidden_PD, head.weight, head.bias)
    expected = torch.autograd.grad(plain, leaves)
    for loss in (fused, unfused):
        torch.testing.assert_close(loss.double(), plain, rtol=1e-5, atol=1e-5)
        for got, oracle in zip(torch.autograd.grad(loss, leaves), expected, strict=True):
            torch.testing.assert_close(got, oracle, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("positions", [0, 6])
def test_nothing_to_learn_gives_zero(teacher, form, positions):
    """No positions, and positions that no term weighs anything."""
    some, head = teacher(positions, 10, form), fused_head(4, 10)
    hidden_PD = torch.randn(positions, 4, requires_grad=True)
    terms = LossTerms(
        [
            make_term(name="divergence", weighting="entropy", entropy_temperature=2.0),
            make_term(name="entropy"),
            make_term(name="cross_entropy", weighting="entropy", entropy_temperature=0.5),
        ],
        10,
    )
    supervision = Supervision(torch.full((positions,), NO_LABEL), some.targets)
    loss, sums_K = head(hidden_PD, task=FusedLoss(terms, supervision, weights_PK=torch.zeros(positions, 3)))
    loss.backward()
    assert (loss.item(), sums_K.tolist()) == (0, [0, 0, 0])
    assert hidden_PD.grad.abs().sum() == head.weight.grad.abs().sum() == 0


def test_a_teacher_that_is_certain_or_knows_nothing():
    """Weight 0 and at most log C; a uniform student matches nothing but a uniform teacher."""
    V = 8
    logits_PV = torch.tensor([[100.0] + [0.0] * (V - 1), [0.0] * V])
    targets = compress(logits_PV, Dense(logit_dtype="float32"))
    supervision = Supervision(torch.zeros(2, dtype=torch.int64), targets)
    weighted, plain = (LossTerms([make_term(name="cross_entropy", **s)], V) for s in ({"weighting": "entropy"}, {}))
    uniform_PV = torch.full((2, V), 3.0)
    sums_K, gradient_PV = sums_and_gradient(weighted, uniform_PV, supervision)
    _, plain_PV = sums_and_gradient(plain, uniform_PV, supervision)
    assert sums_K.item() == pytest.approx(math.log(V) ** 2)
    assert gradient_PV[0].abs().max() < 1e-11
    torch.testing.assert_close(gradient_PV[1], math.log(V) * plain_PV[1])
    matching = LossTerms([make_term(name="entropy")], V)
    sums_K, gradient_PV = sums_and_gradient(matching, uniform_PV, supervision)
    assert sums_K.item() == pytest.approx(math.log(V) ** 2)
    assert gradient_PV.abs().max() < 1e-6


@pytest.mark.parametrize("offset", [0.0, 3e3, -1e4])
def test_logits_far_from_zero_and_far_apart(teacher, offset):
    """A softmax does not feel an offset; students of ±1e4 have entropy 0."""
    some = teacher(6, 20, "dense")
    terms = LossTerms([make_term(name="divergence", weighting="entropy"), make_term(name="entropy")], 20)
    supervision = Supervision(torch.zeros(6, dtype=torch.int64), some.targets)
    steps_PV = torch.randint(-16, 16, (6, 20)) / 4  # exact also beside the offset
    got, expected = (sums_and_gradient(terms, steps_PV + at, supervision) for at in (offset, 0.0))
    torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)
    sums_K, gradient_PV = sums_and_gradient(terms, torch.randn(6, 20).sign() * 1e4 + offset, supervision)
    assert sums_K.isfinite().all()
    assert gradient_PV.isfinite().all()


@pytest.mark.parametrize("spec", [Sampled(), TopK(k=4), Dense(logit_dtype="uint16")], ids=str)
def test_records_as_they_are_stored_answer_the_default_temperature(spec):
    """From the curve, between its nodes: within 5e-3 nats of entropy, as the record promises."""
    logits_PV, student_PV = torch.randn(50, 200) * 3, torch.randn(50, 200) * 3
    targets = compress(logits_PV, spec, torch.arange(150).view(50, 3))
    supervision = Supervision(torch.zeros(50, dtype=torch.int64), targets)
    terms = LossTerms([make_term(name="cross_entropy", weighting="entropy"), make_term(name="entropy")], 200)
    terms.check(targets)
    sums_K, _ = sums_and_gradient(terms, student_PV, supervision)
    nll_P = nn.functional.cross_entropy(student_PV.double(), supervision.labels_P, reduction="none")
    expected = (nll_P * weights(logits_PV, student_PV, 3.0)).sum()
    assert abs(sums_K[0] - expected) < 5e-3 * nll_P.sum()
    gap_P = entropy(student_PV, 1.0) - entropy(logits_PV, 1.0)
    assert abs(sums_K[1] - (gap_P**2).sum()) < 1e-2 * gap_P.abs().sum()


@pytest.mark.parametrize(
    ("settings", "missing"),
    [
        ({"name": "divergence", "weighting": "entropy"}, "3"),
        ({"name": "cross_entropy", "weighting": "entropy"}, "3"),
        ({"name": "cross_entropy", "weighting": "entropy", "entropy_temperature": 1.5}, "1.5"),
        ({"name": "entropy", "temperature": 2.0}, "2"),
        ({"name": "entropy", "temperature": 0.25, "temperature_schedule": "article"}, "0.333333|3"),
    ],
)
def test_a_temperature_that_the_cache_does_not_hold_is_named_before_a_run(settings, missing):
    spec = Sampled(curve=CurveSpec(temperatures=(1.0,)))
    targets = compress(torch.randn(3, 40), spec, torch.arange(9).view(3, 3))
    with pytest.raises(ConfigError, match=f"temperature ({missing}) is not in the cache: its records store 1; use"):
        LossTerms([make_term(name="divergence"), make_term(**settings)], 40).check(targets)
    held = make_term(name="cross_entropy", weighting="entropy", entropy_temperature=1.0)
    LossTerms([held, make_term(name="entropy")], 40).check(targets)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "entropy", "kind": "reverse_kl"},
            "got kind in an entropy term, expected only temperature, temperature_schedule",
        ),
        ({"name": "entropy", "weighting": "entropy"}, "got weighting in an entropy term"),
        ({"name": "entropy", "reduction": "mean"}, "got reduction in an entropy term"),
        ({"name": "entropy", "width": 8}, "got width in an entropy term"),
        ({"name": "divergence", "width": 8}, "got width in a divergence term, expected only kind, temperature"),
        ({"name": "divergence", "entropy_temperature": 2.0}, "got entropy_temperature without weighting: entropy"),
        (
            {"name": "divergence", "weighting": "entropy", "entropy_temperature": math.inf},
            "entropy_temperature\n  Input should be a finite number",
        ),
        ({"name": "divergence", "weighting": "teacher"}, "weighting"),
        (
            {"name": "entropy", "temperature_schedule": "article"},
            "got kind entropy at temperature 1 of temperature_schedule article",
        ),
    ],
)
def test_settings_that_do_not_go_together(settings, message):
    with pytest.raises(ValueError, match=message):
        make_term(**settings)


def test_settings_that_are_not_used_are_not_written():
    """Checkpoints of before know none of them."""
    plain = make_term(name="divergence").model_dump(mode="json")
    assert not plain.keys() & {"weighting", "entropy_temperature", "width"}
    weighted = make_term(name="divergence", weighting="entropy")
    assert make_term(**weighted.model_dump(mode="json")) == weighted
    assert weighted.model_dump(mode="json")["entropy_temperature"] == 3.0


def test_which_terms_need_a_teacher():
    assert not make_term(name="cross_entropy").needs_teacher
    for settings in (*({**s, "weighting": "entropy"} for s in WEIGHTED), {"name": "entropy"}, {"name": "bottleneck"}):
        assert make_term(**settings).needs_teacher
