"""LossTerms' closed-form gradient against autograd of the plain formula, for every mixture of terms and records."""

import math

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.losses.unfused import loss_of_logits

hinton = st.tuples(st.just("hinton"), st.sampled_from([0.5, 1.0, 2.0]))
article = st.tuples(st.just("article"), st.sampled_from([0.5, 1.0, 2.0, 1 / 3]))
weighting = st.sampled_from([None, 0.5, 2.0])
shared = {"temperature_squared": st.booleans(), "weight": st.sampled_from([1.0, 0.7, 0.0])}
kinds = st.sampled_from(
    [
        {"kind": "reverse_kl"},
        {"kind": "jsd", "beta": 0.3},
        {"kind": "skew_kl"},
        {"kind": "skew_reverse_kl"},
        {"kind": "alpha_beta", "alpha": 0.3, "beta": 0.5},
    ]
)


def build(schedule, temperature, weighting=None, **settings):
    if weighting is not None:
        settings |= {"weighting": "entropy", "entropy_temperature": weighting}
    return make_term(temperature_schedule=schedule, temperature=temperature, **settings)


term_configs = st.one_of(
    st.builds(
        lambda at, **settings: build(*at, name="cross_entropy", **settings),
        st.one_of(hinton, article),
        weighting=weighting,
        reduction=st.sampled_from(["mean", "class_mean"]),
        **shared,
    ),
    st.builds(
        lambda at, **settings: build(*at, name="divergence", **settings),
        st.one_of(hinton, article),
        weighting=weighting,
        estimator=st.sampled_from(["normalised", "horvitz_thompson"]),
        reduction=st.sampled_from(["mean", "class_mean"]),
        **shared,
    ),
    st.builds(
        lambda at, kind, **settings: build(*at, name="divergence", **kind, **settings),
        hinton,
        kinds,
        weighting=weighting,
        **shared,
    ),
    st.builds(lambda at, **settings: build(*at, name="entropy", **settings), hinton, **shared),
)


def entropy(logits_PV):
    log_q_PV = logits_PV.log_softmax(-1)
    return -(log_q_PV.exp() * log_q_PV).sum(-1)


def plain(terms, teacher, wide_PV, labels_P, weights_PK, price):
    """Sums of the plain terms and the loss, by the formulas, differentiable."""
    V = teacher.targets.num_classes
    student_PV = wide_PV[:, :V]
    sums, total = [], student_PV.double().sum() * 0
    for k, term in enumerate(terms):
        at = term.temperature
        if term.temperature_schedule == "article":
            at = 1.0 if at == 1 else abs(1 - 1 / at)
        if term.name == "cross_entropy":
            value = torch.nn.functional.cross_entropy(student_PV.double() / at, labels_P, reduction="none")
        elif term.name == "entropy":
            value = (entropy(student_PV.double() / at) - teacher.targets.entropy(at).double()) ** 2
        elif term.temperature_schedule == "article" and term.temperature == 1:
            top_P = teacher.targets.ids_PE[:, 0] if not teacher.targets.is_exact else teacher.logits_PV.argmax(-1)
            value = torch.nn.functional.cross_entropy(student_PV.double(), top_P, reduction="none")
        elif term.kind.kind == "forward_kl":
            value = teacher.forward_kl(at, student_PV, term.estimator)
            if term.reduction == "class_mean":
                value = value - teacher.forward_kl(at, student_PV, term.estimator, entropy_only=True)
        else:
            value = teacher.divergence(term.kind.kind, at, student_PV, **term.kind.model_dump(exclude={"kind"}))
        if term.name == "entropy":
            sums.append((value * weights_PK[:, k]).sum())
            total = total + term.weight * (at**2 if term.temperature_squared else 1) * sums[-1]
            continue
        value = value + price(wide_PV, V, at)
        if term.reduction == "class_mean":
            value = value / V
        if term.weighting == "entropy":
            own_P = entropy(student_PV.detach().double() / term.entropy_temperature)
            value = value * teacher.targets.entropy(term.entropy_temperature) * (1 + own_P / math.log(V)) / 2
        value = (value * weights_PK[:, k]).sum()
        sums.append(value)
        total = total + term.weight * (at**2 if term.temperature_squared else 1) * value
    return torch.stack(sums), total


@settings(max_examples=150, deadline=None)
@given(
    st.lists(term_configs, min_size=1, max_size=4),
    st.sampled_from(["dense", "ghost", "renormalise", "sample"]),
    st.integers(0, 6),
    st.sampled_from([3, 5, 20]),
    st.sampled_from([0, 0, 1, 6]),
    st.sampled_from([torch.float32, torch.float64]),
    st.sampled_from([2.0, 40.0]),
    st.sampled_from([None, "shared", "each"]),
    st.integers(0, 1000),
)
def test_value_and_gradient(teacher, price, configs, form, P, V, surplus, dtype, sharpness, weighted, seed):
    """At sharpness 40 most of the teacher's probabilities are 0 in float32, and reverse KL's gradients reach 200."""
    some = teacher(P, V, form, seed=seed, sharpness=2.0 if form == "sample" else sharpness)
    generator = torch.Generator().manual_seed(seed + 1)
    student_PV = (torch.randn(P, V + surplus, generator=generator, dtype=dtype) * 3).requires_grad_()
    labels_P = torch.randint(0, V, (P,), generator=generator)
    weights = None if weighted is None else torch.rand(P, 1 if weighted == "shared" else len(configs))
    terms = LossTerms(configs, V)
    gradient_PV = student_PV.detach().clone()
    sums_K = terms.value_and_gradient_(gradient_PV, Supervision(labels_P, some.targets), weights)
    weights_PK = (torch.ones(P, 1) if weights is None else weights).double().expand(P, len(configs))
    expected_K, expected_total = plain(configs, some, student_PV, labels_P, weights_PK, price)
    torch.testing.assert_close(sums_K, expected_K.detach(), rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(terms.total(sums_K), expected_total.detach(), rtol=1e-5, atol=2e-5)
    (expected_PV,) = torch.autograd.grad(expected_total, student_PV)
    largest = expected_PV.abs().max().item() if P else 0.0
    torch.testing.assert_close(gradient_PV, expected_PV.to(dtype), rtol=1e-5, atol=5e-6 * max(1.0, largest))


@pytest.mark.parametrize("form", ["dense", "ghost", "renormalise", "sample"])
def test_gradient_is_the_slope_of_the_value(teacher, form):
    """Finite differences in float64: no formula in common with the closed form."""
    some = teacher(4, 9, form)
    terms = LossTerms(
        [
            make_term(name="divergence", temperature=2.0, weight=0.9),
            make_term(name="divergence", weight=0.5),
            make_term(name="cross_entropy", weight=0.1),
        ],
        9,
    )
    student_PV = torch.randn(4, 9, dtype=torch.float64, requires_grad=True)
    supervision = Supervision(torch.tensor([0, 8, 3, 3]), some.targets)
    assert torch.autograd.gradcheck(lambda logits: loss_of_logits(logits, terms, supervision, chunk=3)[0], student_PV)


@pytest.mark.parametrize("student_tail", [1e-3, 1e-7, 1e-30])
def test_a_vanishing_tail_keeps_its_digits(top_two, student_tail):
    """The slope of the tail is p_tail / q_tail, up to 1e29 here."""
    V = 1000
    spread_V = torch.linspace(-1, 1, V - 2, dtype=torch.float64).softmax(-1)
    rows = {
        tail: torch.cat([torch.tensor([0.7, 0.3]) * (1 - tail), spread_V * tail])[None].log()
        for tail in (0.3, student_tail)
    }
    targets = top_two(rows[0.3].float())
    gradient_PV = rows[student_tail].float()
    q_PV = gradient_PV.double().softmax(-1)
    LossTerms([make_term(name="divergence")], V).value_and_gradient_(
        gradient_PV, Supervision(torch.zeros(1, dtype=torch.int64), targets)
    )
    expected_PV = torch.cat([q_PV[:, :2] - torch.tensor([[0.49, 0.21]]), q_PV[:, 2:] - 0.3 * spread_V], 1)
    torch.testing.assert_close(gradient_PV.double(), expected_PV, rtol=1e-5, atol=1e-6)


def test_a_tail_below_every_number_stays_finite(top_two):
    logits_PV = torch.tensor([[300.0, 299.0, 0.0, 0.0]])
    targets = top_two(torch.tensor([[5.0, 4.0, 0.0, -1.0]]))
    terms = LossTerms([make_term(name="divergence")], 4)
    sums_K = terms.value_and_gradient_(logits_PV, Supervision(torch.zeros(1, dtype=torch.int64), targets))
    assert sums_K.isfinite().all()
    assert logits_PV.isfinite().all()


def test_labels_need_no_teacher():
    terms = LossTerms([make_term(name="cross_entropy")], 5)
    logits_PV = torch.zeros(2, 5)
    sums_K = terms.value_and_gradient_(logits_PV, Supervision(torch.tensor([1, 4])))
    torch.testing.assert_close(sums_K, 2 * torch.tensor([5.0]).log().double())
    torch.testing.assert_close(logits_PV, torch.full((2, 5), 0.2) - torch.eye(5)[[1, 4]])


def test_names_tell_terms_apart():
    divergences = [
        {"temperature": 2.0},
        {"kind": "jsd"},
        {"kind": "jsd", "beta": 0.3},
        {"kind": "alpha_beta", "alpha": 0.2, "beta": 0.7},
        {"temperature_schedule": "article", "temperature": 2.0},
    ]
    labels = [{}, {"temperature": 2.0}]
    terms = LossTerms(
        [
            *(make_term(name="divergence", **settings) for settings in divergences),
            *(make_term(name="cross_entropy", **settings) for settings in labels),
            make_term(name="divergence", temperature=2.0, weighting="entropy"),
            make_term(name="cross_entropy", weighting="entropy", entropy_temperature=1.5),
            make_term(name="entropy", temperature=2.0),
            make_term(name="bottleneck", width=32),
        ],
        num_classes=5,
    )
    assert terms.names == (
        "forward_kl@2",
        "jsd@1",
        "jsd_0.3@1",
        "alpha_beta_0.2_0.7@1",
        "forward_kl@article2",
        "cross_entropy",
        "cross_entropy@2",
        "forward_kl@2_weighted@3",
        "cross_entropy_weighted@1.5",
        "entropy@2",
        "bottleneck_32_0.01",
    )


@pytest.mark.parametrize("form", ["dense", "ghost", "renormalise", "sample"])
def test_blocks_of_rows_add_up(teacher, form, monkeypatch):
    """Three temperatures, one the half of another, and entropies; a block of two rows and the last of one."""
    some = teacher(7, 30, form)
    student_PV = torch.randn(7, 30)
    supervision, weights_PK = Supervision(torch.arange(7), some.targets), torch.rand(7, 6)
    terms = LossTerms(
        [
            make_term(name="divergence", temperature=2.0),
            make_term(name="divergence", kind="jsd", temperature=0.5),
            make_term(name="divergence", kind="tvd", weighting="entropy", entropy_temperature=2.0),
            make_term(name="cross_entropy", weight=0.3),
            make_term(name="cross_entropy", weighting="entropy", entropy_temperature=0.5),
            make_term(name="entropy", temperature=2.0),
        ],
        30,
    )
    whole_PV, parts_PV = student_PV.clone(), student_PV.clone()
    whole_K = terms.value_and_gradient_(whole_PV, supervision, weights_PK)
    monkeypatch.setattr("kdcache.losses.terms._BLOCK_BYTES", 2 * 30 * 4)
    parts_K = terms.value_and_gradient_(parts_PV, supervision, weights_PK)
    torch.testing.assert_close(parts_K, whole_K)
    torch.testing.assert_close(parts_PV, whole_PV)


def test_chunks_add_up(teacher):
    some = teacher(10, 30, "ghost")
    student_PV = torch.randn(10, 30)
    supervision = Supervision(torch.arange(10), some.targets)
    terms = LossTerms([make_term(name="divergence", temperature=2.0), make_term(name="cross_entropy")], 30)
    whole_PV, parts_PV = student_PV.clone(), student_PV.clone()
    whole_K = terms.value_and_gradient_(whole_PV, supervision)
    parts_K = sum(terms.value_and_gradient_(parts_PV[i : i + 3], supervision[i : i + 3]) for i in range(0, 10, 3))
    torch.testing.assert_close(parts_K, whole_K)
    torch.testing.assert_close(parts_PV, whole_PV)


def test_terms_of_one_name_are_numbered_and_keep_it_when_others_follow():
    """Each has a column of its own in the log; a resumed run with another term at the end goes on with the same."""
    settings = [
        {},
        {"weight": 0.5},
        {"temperature_squared": False},
        {"reduction": "class_mean"},
        {"estimator": "horvitz_thompson"},
        {"reduction": "class_mean", "weight": 2.0},
    ]
    terms = [make_term(name="divergence", **each) for each in settings]
    names = (
        "forward_kl@1",
        "forward_kl@1#2",
        "forward_kl@1#3",
        "forward_kl@1_class_mean",
        "forward_kl@1_horvitz_thompson",
        "forward_kl@1_class_mean#2",
    )
    for count in range(1, len(terms) + 1):
        assert LossTerms(terms[:count], 5).names == names[:count]


def test_class_weights_are_those_of_torch_whose_sum_is_divided_by_positions():
    """Label smoothing aside, reduction "sum"; a position without a label counts nothing."""
    generator = torch.Generator().manual_seed(0)
    logits_PV = torch.randn(40, 5, generator=generator, dtype=torch.float64).requires_grad_()
    labels_P = torch.randint(0, 5, (40,), generator=generator)
    labels_P[::7] = -100
    weights_C, own_P1 = torch.tensor([1.0, 0.0, 3.0, 0.5, 8.0]).double(), torch.rand(40, 1).double()
    term = {"name": "cross_entropy", "class_weights": {"a": 1.0}}
    plain = make_term(name="cross_entropy", weight=0.5)
    terms = LossTerms([make_term(**term), make_term(**term, temperature=2.0), plain], 5, {0: weights_C, 1: weights_C})
    assert terms.names == ("cross_entropy_class_weights", "cross_entropy@2_class_weights", "cross_entropy")
    for given_P1 in (None, own_P1):
        loss, sums_K = loss_of_logits(logits_PV, terms, Supervision(labels_P), 16, given_P1)
        (found_PV,) = torch.autograd.grad(loss, logits_PV)

        def nll(temperature, weight, given_P1=given_P1):
            by_position = torch.nn.functional.cross_entropy(
                logits_PV / temperature, labels_P, weight, ignore_index=-100, reduction="none"
            )
            return (by_position if given_P1 is None else by_position * given_P1[:, 0]).sum()

        sums = [nll(1.0, weights_C), nll(2.0, weights_C), nll(1.0, None)]
        torch.testing.assert_close(sums_K, torch.stack(sums).detach())
        (expected_PV,) = torch.autograd.grad(sums[0] + 4 * sums[1] + 0.5 * sums[2], logits_PV)
        torch.testing.assert_close(found_PV, expected_PV)
