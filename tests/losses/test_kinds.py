"""Every kind of divergence: its formula, its bounds and limits, its closed-form gradient, fused and not."""

import math
import subprocess
import sys
from dataclasses import fields, replace

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from torch import nn

from kdcache.errors import ConfigError
from kdcache.losses.distillation import distillation_loss
from kdcache.losses.divergence import divergence_of_kind
from kdcache.losses.fused import FusedLoss
from kdcache.losses.registry import DIVERGENCES
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.losses.unfused import loss_of_logits
from kdcache.models.wide_linear import WideLinear

F_DIVERGENCES = [
    ("forward_kl", {}),
    ("reverse_kl", {}),
    ("jsd", {}),
    ("jsd", {"beta": 0.1}),
    ("skew_kl", {}),
    ("skew_kl", {"alpha": 0.7}),
    ("skew_kl", {"alpha": 0.0}),
    ("skew_reverse_kl", {}),
    ("skew_reverse_kl", {"alpha": 0.7}),
    ("skew_reverse_kl", {"alpha": 0.0}),
    ("tvd", {}),
    ("alpha_beta", {"alpha": 0.3, "beta": 0.7}),
    ("alpha_beta", {"alpha": 1.0, "beta": 0.0}),
    ("alpha_beta", {"alpha": 0.0, "beta": 1.0}),
]
MERGING = [
    *F_DIVERGENCES,
    ("alpha_beta", {"alpha": 0.2, "beta": 0.4}),
    ("alpha_beta", {"alpha": 0.6, "beta": 0.0}),
    ("alpha_beta", {"alpha": 0.0, "beta": 0.6}),
    ("alpha_beta", {"alpha": 0.0, "beta": 0.0}),
]
WHOLE_ONLY = [
    ("alpha_beta", {"alpha": 1.0, "beta": 1.0}),
    ("alpha_beta", {"alpha": 0.2, "beta": 2.0}),
    ("alpha_beta", {"alpha": 1.5, "beta": 0.0}),
]
CASES = [
    *((form, *kind) for form in ("dense", "factored", "ghost", "renormalise", "sample") for kind in MERGING),
    *((form, *kind) for form in ("dense", "factored") for kind in WHOLE_ONLY),
]
of_weights = {("renormalise", "forward_kl"), ("sample", "forward_kl")}


def plain(some, form, kind, temperature, student_PV, parameters):
    if (form, kind) in of_weights:
        return some.forward_kl(temperature, student_PV)
    return some.divergence(kind, temperature, student_PV, **parameters)


def term(kind, parameters, **settings):
    return make_term(name="divergence", kind=kind, **parameters, **settings)


@pytest.mark.parametrize(("form", "kind", "parameters"), CASES)
@pytest.mark.parametrize("sharpness", [2.0, 20.0])
def test_value_and_gradient_are_those_of_the_formula(teacher, form, kind, parameters, sharpness):
    """At sharpness 20 many of the teacher's probabilities are 0 in float32, and gradients go up to 100."""
    some = teacher(7, 30, form, seed=3, sharpness=2.0 if form == "sample" else sharpness)
    for temperature in (0.5, 1.0, 2.0):
        student_PV = (torch.randn(7, 30) * 2).requires_grad_()
        oracle_P = plain(some, form, kind, temperature, student_PV, parameters)
        (oracle_PV,) = torch.autograd.grad(oracle_P.sum(), student_PV, retain_graph=True)
        slack = 1e-5 * max(1, oracle_PV.abs().max().item())
        arguments = {"kind": kind, "temperature": temperature, "temperature_squared": False, **parameters}
        got_P = distillation_loss(student_PV, some.targets, reduction="none", **arguments)
        (got_PV,) = torch.autograd.grad(got_P.sum(), student_PV)
        torch.testing.assert_close(got_P.double(), oracle_P, rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got_PV, oracle_PV, rtol=1e-5, atol=slack)
        closed_PV = student_PV.detach().clone()
        terms = LossTerms([term(kind, parameters, temperature=temperature, temperature_squared=False)], 30)
        sums_K = terms.value_and_gradient_(closed_PV, Supervision(torch.zeros(7, dtype=torch.int64), some.targets))
        torch.testing.assert_close(sums_K[0], oracle_P.sum(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(closed_PV, oracle_PV, rtol=1e-5, atol=slack)


@pytest.mark.parametrize(("form", "kind", "parameters"), [case for case in CASES if case[0] != "renormalise"])
def test_gradients_in_float64(teacher, form, kind, parameters):
    """Finite differences, of the plain function and of the closed form."""
    some = teacher(4, 9, form)
    student_PV = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    assert torch.autograd.gradcheck(
        lambda logits: distillation_loss(logits, some.targets, kind=kind, temperature=2.0, **parameters), student_PV
    )
    terms, supervision = (
        LossTerms([term(kind, parameters, temperature=2.0)], 9),
        Supervision(torch.zeros(4, dtype=torch.int64), some.targets),
    )
    assert torch.autograd.gradcheck(lambda logits: loss_of_logits(logits, terms, supervision, chunk=3)[0], student_PV)


@pytest.mark.parametrize(("form", "kind", "parameters"), CASES)
def test_fused_equals_unfused(teacher, form, kind, parameters):
    P, D, V = 9, 5, 12
    some = teacher(P, V, form)
    head, hidden_PD = nn.Linear(D, V + 3, bias=False), torch.randn(P, D, requires_grad=True)
    head.__class__ = WideLinear
    labels_P = torch.randint(0, V, (P,))
    terms = LossTerms([term(kind, parameters, temperature=2.0), make_term(name="cross_entropy", weight=0.3)], V)
    task = FusedLoss(terms, Supervision(labels_P, some.targets), chunk=4)
    fused, _ = head(hidden_PD, task=task)
    logits_PV = head(hidden_PD)
    unfused = distillation_loss(
        logits_PV, some.targets, kind=kind, temperature=2.0, reduction="sum", **parameters
    ) + 0.3 * nn.functional.cross_entropy(logits_PV, labels_P, reduction="sum")
    torch.testing.assert_close(fused, unfused, rtol=1e-5, atol=1e-5)
    leaves = (hidden_PD, head.weight)
    for got, expected in zip(torch.autograd.grad(fused, leaves), torch.autograd.grad(unfused, leaves), strict=True):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-5)


@settings(max_examples=60, deadline=None)
@given(st.sampled_from(F_DIVERGENCES), st.integers(2, 40), st.sampled_from([0.5, 1.0, 2.0]), st.integers(0, 1000))
def test_merging_classes_loses_information(teacher, kind, V, temperature, seed):
    """The data-processing inequality: every f-divergence of a coarsened record is at most the dense one."""
    name, parameters = kind
    whole, coarse = (teacher(10, V, form, seed=seed) for form in ("dense", "ghost"))
    student_PV = torch.randn(10, V, generator=torch.Generator().manual_seed(seed), dtype=torch.float64) * 2
    arguments = {"kind": name, "temperature": temperature, "reduction": "none", **parameters}
    exact_P, bound_P = (distillation_loss(student_PV, some.targets, **arguments) for some in (whole, coarse))
    assert (bound_P <= exact_P + 2e-6 * (1 + exact_P)).all()
    assert (bound_P >= -2e-6).all()


@pytest.mark.parametrize(("kind", "parameters"), MERGING)
@pytest.mark.parametrize("form", ["dense", "ghost"])
def test_zero_where_student_and_teacher_agree_and_above_elsewhere(teacher, form, kind, parameters):
    some = teacher(6, 15, form)
    supervision, terms = Supervision(torch.zeros(6, dtype=torch.int64), some.targets), [term(kind, parameters)]
    same_PV, other_PV = some.logits_PV + 3.0, some.logits_PV.flip(-1)
    assert (distillation_loss(other_PV, some.targets, kind=kind, reduction="none", **parameters) > 1e-3).all()
    # A total variation's slope jumps there, by as much as a rounding of p decides.
    tolerance = 1 if kind == "tvd" else 2e-5 if parameters == {"alpha": 0.0, "beta": 0.0} else 3e-6
    value = distillation_loss(same_PV, some.targets, kind=kind, **parameters)
    gradient_PV = same_PV.clone()
    sums_K = LossTerms(terms, 15).value_and_gradient_(gradient_PV, supervision)
    assert abs(value.item()) < 3e-6
    assert abs(sums_K.item()) < 2e-5
    assert gradient_PV.abs().max() < tolerance


def test_limits_and_bounds(teacher):
    some = teacher(8, 25, "dense")
    student_PV = torch.randn(8, 25, dtype=torch.float64) * 3

    def value(kind, **parameters):
        return distillation_loss(student_PV, some.targets, kind=kind, **parameters).item()

    forward, reverse = value("forward_kl"), value("reverse_kl")
    assert value("jsd", beta=1e-7) / 1e-7 == pytest.approx(forward, rel=1e-3)
    assert value("jsd", beta=1 - 1e-7) / 1e-7 == pytest.approx(reverse, rel=1e-3)
    assert value("jsd") < math.log(2)
    assert value("tvd") < 1
    assert value("skew_kl", alpha=0.0) == pytest.approx(forward)
    assert value("skew_reverse_kl", alpha=0.0) == pytest.approx(reverse)
    assert value("skew_kl", alpha=0.9) < math.log(1 / 0.9)
    assert value("alpha_beta", alpha=1, beta=0) == pytest.approx(forward)
    assert value("alpha_beta", alpha=0, beta=1) == pytest.approx(reverse)
    p_PV, q_PV = (z.double().softmax(-1) for z in (some.logits_PV, student_PV))
    assert value("alpha_beta", alpha=1, beta=1) == pytest.approx(((p_PV - q_PV) ** 2).sum(-1).mean().item() / 2)
    for alpha, beta in ((0.0, 0.0), (0.0, 0.7), (0.7, 0.0), (0.5, 0.5)):
        near = value("alpha_beta", alpha=alpha + 1e-7, beta=beta + 1e-7)
        assert near == pytest.approx(value("alpha_beta", alpha=alpha, beta=beta), rel=1e-4), (alpha, beta)


@pytest.mark.parametrize("power", [1e-6, 1e-3, 0.1])
def test_alpha_beta_near_its_limits_keeps_its_digits(teacher, power):
    """The three-term formula would have none in float32: it divides differences of 1e-7 by alpha · beta."""
    some = teacher(8, 25, "dense")
    student_PV = torch.randn(8, 25)
    for parameters in (
        {"alpha": power, "beta": 0.4},
        {"alpha": power, "beta": 0.6},
        {"alpha": 0.6, "beta": power},
    ):
        got = distillation_loss(student_PV, some.targets, kind="alpha_beta", **parameters)
        exact = distillation_loss(student_PV.double(), some.targets, kind="alpha_beta", **parameters)
        torch.testing.assert_close(got.double(), exact, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("form", "kind", "parameters"), [c for c in CASES if c[0] in ("dense", "ghost")])
@pytest.mark.parametrize("entries_hold", [1e-30, 1e4])
def test_extreme_students_stay_finite(teacher, form, kind, parameters, entries_hold):
    """Logits of ±1e4, and a student that puts 1e-30 on all of a teacher's entries."""
    some = teacher(6, 20, form, entries=3)
    if entries_hold == 1e4:
        student_PV = torch.randn(6, 20).sign() * 1e4
    else:
        top_PE = some.logits_PV.topk(3).indices
        student_PV = torch.zeros(6, 20).scatter_(1, top_PE, math.log(entries_hold))
    for temperature in (0.5, 2.0):
        leaf_PV = student_PV.clone().requires_grad_()
        value = distillation_loss(leaf_PV, some.targets, kind=kind, temperature=temperature, **parameters)
        value.backward()
        gradient_PV = student_PV.clone()
        terms = LossTerms([term(kind, parameters, temperature=temperature)], 20)
        sums_K = terms.value_and_gradient_(gradient_PV, Supervision(torch.zeros(6, dtype=torch.int64), some.targets))
        assert value.isfinite()
        assert sums_K.isfinite().all()
        assert leaf_PV.grad.isfinite().all()
        assert gradient_PV.isfinite().all()
        torch.testing.assert_close(sums_K[0].float() * temperature**2 / 6, value.detach(), rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize(("kind", "parameters"), F_DIVERGENCES)
def test_an_entry_of_1e_30_has_the_slope_of_the_formula(top_two, kind, parameters):
    """Forward KL's by log q is −p however small q is; a mixture's vanishes with q."""
    logits_PV = torch.tensor([[3.0, 2.0, 0.0, -1.0, 0.5]])
    targets = top_two(logits_PV)
    student_PV = torch.tensor([[math.log(1e-30), math.log(2e-30), 0.3, 0.0, 0.1]])
    exact_PV = student_PV.double().requires_grad_()
    distillation_loss(exact_PV, targets, kind=kind, **parameters).backward()
    LossTerms([term(kind, parameters)], 5).value_and_gradient_(
        student_PV, Supervision(torch.zeros(1, dtype=torch.int64), targets)
    )
    torch.testing.assert_close(student_PV.double(), exact_PV.grad, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize(("form", "kind", "parameters"), CASES)
def test_no_supervised_position_gives_zero(teacher, form, kind, parameters):
    some = teacher(0, 10, form)
    student_PV = torch.zeros(0, 10, requires_grad=True)
    value = distillation_loss(student_PV, some.targets, kind=kind, **parameters)
    value.backward()
    assert value.item() == 0
    head, hidden_PD = nn.Linear(4, 10), torch.zeros(0, 4, requires_grad=True)
    head.__class__ = WideLinear
    supervision = Supervision(torch.zeros(0, dtype=torch.int64), some.targets)
    loss, sums_K = head(hidden_PD, task=FusedLoss(LossTerms([term(kind, parameters)], 10), supervision))
    loss.backward()
    assert (loss.item(), sums_K.item()) == (0, 0)
    assert head.weight.grad.abs().max() == 0


@pytest.mark.parametrize(
    ("kind", "parameters", "message"),
    [
        ("forward_kl", {"alpha": 0.5}, "got alpha for kind forward_kl, expected none"),
        ("jsd", {"alpha": 0.5}, "got alpha for kind jsd, expected only beta"),
        ("jsd", {"beta": 0.0}, "got beta 0 for kind jsd, expected 0 < beta < 1: .*forward_kl.*reverse_kl"),
        ("jsd", {"beta": 1.0}, "got beta 1 for kind jsd"),
        ("jsd", {"beta": math.nan}, "Input should be a finite number"),
        ("skew_kl", {"alpha": 1.0}, "got alpha 1 for kind skew_kl, expected 0 ≤ alpha < 1"),
        ("skew_reverse_kl", {"alpha": -0.1}, "got alpha -0.1 for kind skew_reverse_kl"),
        ("alpha_beta", {"alpha": 0.5}, "got kind alpha_beta without beta, expected a finite number"),
        ("alpha_beta", {"alpha": 0.5, "beta": -0.5}, "got beta -0.5 for kind alpha_beta"),
        ("alpha_beta", {"alpha": 0.5, "beta": 0.5, "gamma": 1.0}, "got gamma .*expected only alpha and beta"),
    ],
)
def test_wrong_parameters_are_named(teacher, kind, parameters, message):
    with pytest.raises(ConfigError, match=message) as caught:
        distillation_loss(torch.zeros(2, 10), teacher(2, 10, "dense").targets, kind=kind, **parameters)
    assert "\n" not in str(caught.value)
    if "gamma" not in parameters:
        with pytest.raises(ValueError, match=message):
            term(kind, parameters)


@pytest.mark.parametrize("form", ["ghost", "renormalise", "sample"])
@pytest.mark.parametrize(("kind", "parameters"), WHOLE_ONLY)
def test_what_grows_when_classes_merge_is_for_dense_records(teacher, form, kind, parameters):
    some = teacher(3, 10, form)
    with pytest.raises(ConfigError, match=r"alpha \+ beta above 1 on sparse records.*record.kind factored or dense"):
        distillation_loss(torch.zeros(3, 10), some.targets, kind=kind, **parameters)
    with pytest.raises(ConfigError, match=r"alpha \+ beta above 1 on sparse records"):
        LossTerms([term(kind, parameters)], 10).value_and_gradient_(
            torch.zeros(3, 10), Supervision(torch.zeros(3, dtype=torch.int64), some.targets)
        )


def test_a_sample_beside_a_factor_serves_forward_kl_up_to_temperature_1(teacher):
    factored = teacher(6, 30, "factored", seed=2)
    sample = teacher(6, 30, "sample", seed=2)
    both = replace(
        factored.targets, **{field.name: getattr(sample.targets, field.name) for field in fields(sample.targets)}
    )
    alone = replace(both, tail="factored")
    student_PV = torch.randn(6, 30)
    for temperature, kind, expected in (
        (0.5, "forward_kl", sample.targets),
        (1.0, "forward_kl", sample.targets),
        (2.0, "forward_kl", alone),
        (1.0, "reverse_kl", alone),
    ):
        got, other = (
            distillation_loss(student_PV, targets, kind=kind, temperature=temperature) for targets in (both, expected)
        )
        torch.testing.assert_close(got, other)


def test_merging_makes_such_divergences_larger():
    """Why they are refused: two equal halves of p and q, apart and merged, at α = β = 1."""
    p, q = torch.tensor([0.4, 0.4, 0.2]), torch.tensor([0.1, 0.1, 0.8])
    apart, merged = ((p - q) ** 2).sum(), (0.8 - 0.2) ** 2 + (0.2 - 0.8) ** 2
    assert merged > apart


def test_a_row_without_certain_entries_is_one_class(teacher):
    some = teacher(4, 10, "sample")
    none_certain = type(some.targets)(
        **{**vars(some.targets), "num_certain_P": torch.tensor([2, 0, 1, 1])},
    )
    assert distillation_loss(torch.zeros(4, 10), none_certain).isfinite()
    for kind, parameters in MERGING:
        if kind != "forward_kl":
            with pytest.raises(
                ConfigError, match=f"got kind {kind} on records without a certain entry.*exact_top_k of 1"
            ):
                distillation_loss(torch.zeros(4, 10), none_certain, kind=kind, **parameters)


def test_every_kind_of_the_config_exists():
    for kind in DIVERGENCES:
        parameters = {"alpha": 0.5, "beta": 0.5} if kind == "alpha_beta" else {}
        assert divergence_of_kind(kind, parameters) is not None
        assert make_term("divergence", kind=kind, **parameters).kind == divergence_of_kind(kind, parameters)


def test_a_config_needs_no_torch():
    code = "import sys, kdcache.config; print('torch' in sys.modules)"
    assert subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True).stdout == "False\n"
