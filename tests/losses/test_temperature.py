"""The two temperature schedules, the one-hot limit between them, and the mean over classes."""

import math

import pytest
import torch
from torch.nn.functional import cross_entropy

from kdcache.errors import ConfigError
from kdcache.losses.distillation import distillation_loss
from kdcache.losses.supervision import Supervision
from kdcache.losses.temperature import softmax_temperature
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms


@pytest.mark.parametrize(
    ("article", "hinton"),
    [(1 / 5, 4), (1 / 3, 2), (1 / 2, 1), (2 / 3, 1 / 2), (4 / 5, 1 / 4), (5 / 4, 1 / 5), (2, 1 / 2), (5, 4 / 5)],
)
def test_the_schedules_map_onto_each_other(article, hinton):
    assert softmax_temperature(article, "article") == pytest.approx(hinton)
    factor = article / (article - 1)
    assert abs(factor) == pytest.approx(1 / hinton)
    assert softmax_temperature(hinton) == hinton
    assert softmax_temperature(1 / (1 + hinton), "article") == pytest.approx(hinton)
    if hinton < 1:
        assert softmax_temperature(1 / (1 - hinton), "article") == pytest.approx(hinton)


@pytest.mark.parametrize("article", [0.5, 2.0])
@pytest.mark.parametrize("form", ["dense", "ghost", "sample"])
def test_the_articles_softmax_and_gradient_scale(teacher, article, form):
    """α = T / (T − 1) for teacher and student, scaled by 1/α²."""
    some = teacher(6, 12, form)
    alpha = abs(article / (article - 1))
    student_PV = torch.randn(6, 12)
    value = distillation_loss(
        student_PV, some.targets, temperature=article, temperature_schedule="article", reduction="none"
    )
    torch.testing.assert_close(value.double(), some.forward_kl(1 / alpha, student_PV) / alpha**2, rtol=1e-5, atol=5e-6)
    same = distillation_loss(student_PV, some.targets, temperature=1 / alpha, reduction="none")
    torch.testing.assert_close(value, same)


@pytest.mark.parametrize("form", ["dense", "ghost", "renormalise", "sample"])
@pytest.mark.parametrize("squared", [False, True])
def test_at_1_the_teacher_is_one_hot(teacher, form, squared):
    """And there is no scale: the plain softmax of the student against the teacher's likeliest class."""
    some = teacher(6, 12, form)
    student_PV = torch.randn(6, 12)
    settings = {"temperature": 1.0, "temperature_schedule": "article", "temperature_squared": squared}
    value = distillation_loss(student_PV, some.targets, **settings)
    expected = cross_entropy(student_PV, some.logits_PV.argmax(-1))
    torch.testing.assert_close(value, expected)
    gradient_PV, leaf_PV = student_PV.clone(), student_PV.clone().requires_grad_()
    terms = LossTerms([make_term(name="divergence", **settings)], 12)
    sums_K = terms.value_and_gradient_(gradient_PV, Supervision(torch.zeros(6, dtype=torch.int64), some.targets))
    cross_entropy(leaf_PV, some.targets.top_P, reduction="sum").backward()
    torch.testing.assert_close(terms.total(sums_K) / 6, expected.double(), rtol=1e-5, atol=1e-6)
    torch.testing.assert_close(gradient_PV, leaf_PV.grad)


@pytest.mark.parametrize("article", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("name", ["divergence", "cross_entropy"])
def test_the_articles_gradient_is_scaled_by_one_over_beta_squared(teacher, article, name):
    """By hand: 1/β² · β (softmax(βz) − target), which is q − target without a scale at the limit."""
    some, labels_P = teacher(6, 12, "dense"), torch.arange(6)
    factor = 1.0 if article == 1 else abs(article / (article - 1))
    assert factor == {0.5: 1.0, 1.0: 1.0, 2.0: 2.0}[article]
    target_PV = torch.nn.functional.one_hot(
        some.logits_PV.argmax(-1) if name == "divergence" else labels_P, 12
    ).double()
    if name == "divergence" and article != 1:
        target_PV = (factor * some.logits_PV.double()).softmax(-1)
    student_PV = torch.randn(6, 12, dtype=torch.float64)
    expected_PV = ((factor * student_PV).softmax(-1) - target_PV) / factor
    terms = LossTerms([make_term(name=name, temperature=article, temperature_schedule="article")], 12)
    terms.value_and_gradient_(student_PV, Supervision(labels_P, some.targets))
    torch.testing.assert_close(student_PV, expected_PV, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("settings", [{"temperature": 2.0}, {"temperature": 1 / 3, "temperature_schedule": "article"}])
def test_hard_labels_with_the_temperatures_softmax(settings):
    student_PV, labels_P = torch.randn(5, 9, requires_grad=True), torch.arange(5)
    terms = LossTerms([make_term(name="cross_entropy", **settings)], 9)
    gradient_PV = student_PV.detach().clone()
    sums_K = terms.value_and_gradient_(gradient_PV, Supervision(labels_P))
    expected = cross_entropy(student_PV / 2, labels_P, reduction="sum")
    (4 * expected).backward()
    torch.testing.assert_close(sums_K[0], expected.detach().double())
    torch.testing.assert_close(gradient_PV, student_PV.grad)


def test_the_hard_label_form_at_1_is_plain_cross_entropy():
    student_PV, labels_P = torch.randn(5, 9), torch.arange(5)
    terms = LossTerms([make_term(name="cross_entropy", temperature_schedule="article")], 9)
    sums_K = terms.value_and_gradient_(student_PV.clone(), Supervision(labels_P))
    torch.testing.assert_close(sums_K[0], cross_entropy(student_PV, labels_P, reduction="sum").double())


def test_the_mean_over_classes_is_the_soft_cross_entropy(teacher):
    some = teacher(6, 12, "dense")
    student_PV = torch.randn(6, 12)
    p_PV, log_q_PV = (some.logits_PV / 2).softmax(-1), (student_PV / 2).log_softmax(-1)
    expected = -(p_PV * log_q_PV).mean(-1).mean()
    value = distillation_loss(
        student_PV, some.targets, temperature=2.0, reduction="class_mean", temperature_squared=False
    )
    torch.testing.assert_close(value, expected)
    terms = LossTerms([make_term(name="divergence", temperature=2.0, reduction="class_mean")], 12)
    sums_K = terms.value_and_gradient_(student_PV.clone(), Supervision(torch.zeros(6, dtype=torch.int64), some.targets))
    torch.testing.assert_close(sums_K[0] / 6, expected.double())
    assert terms.total(sums_K) == 4 * sums_K[0]


@pytest.mark.parametrize("temperature", [0.0, -1.0, math.inf, math.nan])
@pytest.mark.parametrize("schedule", ["hinton", "article"])
def test_temperatures_that_are_none(teacher, temperature, schedule):
    with pytest.raises(ConfigError, match=f"got temperature {temperature:g}, expected a finite number above 0"):
        distillation_loss(
            torch.zeros(2, 10), teacher(2, 10, "dense").targets, temperature=temperature, temperature_schedule=schedule
        )
    with pytest.raises(ValueError, match="temperature"):
        make_term(name="divergence", temperature=temperature, temperature_schedule=schedule)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"kind": "tvd", "temperature_schedule": "article"},
            "got kind tvd at temperature 1 of temperature_schedule article, expected forward_kl",
        ),
        ({"kind": "tvd", "reduction": "class_mean"}, "got reduction class_mean for kind tvd, expected it only for"),
        ({"temperature_schedule": "cosine"}, "schedule"),
        ({"reduction": "median"}, "reduction"),
        ({"estimator": "none"}, "estimator"),
    ],
)
def test_settings_that_do_not_go_together(teacher, settings, message):
    with pytest.raises(ConfigError, match=message):
        distillation_loss(torch.zeros(2, 10), teacher(2, 10, "dense").targets, **settings)
    with pytest.raises(ValueError, match=message):
        make_term(name="divergence", **settings)


@pytest.mark.parametrize(
    ("settings", "message"),
    [
        (
            {"name": "cross_entropy", "beta": 0.5},
            "got beta in a cross_entropy term, expected only temperature, temperature_schedule",
        ),
        ({"name": "cross_entropy", "estimator": "normalised"}, "got estimator in a cross_entropy term"),
        ({"name": "divergence", "kind": "jsd", "estimator": "normalised"}, "got estimator for kind jsd"),
    ],
)
def test_settings_of_other_terms(settings, message):
    with pytest.raises(ValueError, match=message):
        make_term(**settings)


def test_logits_of_other_positions_or_too_few_classes(teacher):
    targets = teacher(3, 10, "dense").targets
    for shape in ((1, 10), (3, 9)):
        with pytest.raises(ConfigError, match=f"got logits of {shape[0]} positions and {shape[1]} classes"):
            distillation_loss(torch.zeros(shape), targets)
