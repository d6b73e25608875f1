"""distillation_loss against the plain formula in float64, whatever the record holds."""

import pytest
import torch

from kdcache.errors import ConfigError
from kdcache.losses.distillation import distillation_loss

FORMS = ["dense", "ghost", "renormalise", "sample"]


@pytest.mark.parametrize("form", FORMS)
@pytest.mark.parametrize("temperature", [0.5, 1.0, 2.0])
@pytest.mark.parametrize("classes", [4, 30])
def test_forward_kl_is_the_plain_formula(teacher, form, temperature, classes):
    some = teacher(7, classes, form, seed=classes)
    student_PV = torch.randn(7, classes)
    got = distillation_loss(
        student_PV, some.targets, temperature=temperature, temperature_squared=False, reduction="none"
    )
    torch.testing.assert_close(got.double(), some.forward_kl(temperature, student_PV), rtol=2e-5, atol=5e-6)
    if form != "sample":
        assert (got > 0).all()


@pytest.mark.parametrize("form", FORMS)
def test_gradient_is_that_of_the_plain_formula(teacher, form):
    some = teacher(6, 12, form)
    student_PV = torch.randn(6, 12, dtype=torch.float64, requires_grad=True)
    value = distillation_loss(student_PV, some.targets, temperature=2.0, reduction="sum")
    expected = 4 * some.forward_kl(2.0, student_PV).sum()
    (got,) = torch.autograd.grad(value, student_PV)
    (oracle,) = torch.autograd.grad(expected, student_PV)
    torch.testing.assert_close(got, oracle, rtol=1e-5, atol=1e-6)
    assert torch.autograd.gradcheck(
        lambda logits: distillation_loss(logits, some.targets, temperature=2.0), student_PV, fast_mode=True
    )


@pytest.mark.parametrize("form", ["dense", "ghost"])
def test_zero_where_student_and_teacher_agree(teacher, form):
    some = teacher(5, 20, form)
    student_PV = (some.logits_PV + 3.0).requires_grad_()
    value = distillation_loss(student_PV, some.targets, temperature=2.0)
    value.backward()
    assert abs(value.item()) < 2e-6
    assert student_PV.grad.abs().max() < 1e-6


@pytest.mark.parametrize("student_tail", [1e-3, 1e-7, 1e-20, 1e-30])
@pytest.mark.parametrize("teacher_tail", [0.3, 1e-7])
def test_a_vanishing_tail_keeps_its_digits(top_two, student_tail, teacher_tail):
    """1 − Σ entries would have none left at 1e-7: the tail's mass is summed from its own probabilities."""

    def row(tail, V=1000):
        spread = torch.linspace(-1, 1, V - 2, dtype=torch.float64).softmax(-1) * tail
        return torch.cat([torch.tensor([0.7, 0.3], dtype=torch.float64) * (1 - tail), spread]).log()[None]

    targets = top_two(row(teacher_tail).float())
    student_PV = row(student_tail).float().requires_grad_()
    value = distillation_loss(student_PV, targets, temperature_squared=False)
    exact_PV = student_PV.detach().double().requires_grad_()
    p_PV, log_q_PV = row(teacher_tail).softmax(-1), exact_PV.log_softmax(-1)
    tail = p_PV[:, 2:].sum()
    expected = (p_PV[:, :2] * (p_PV.log() - log_q_PV)[:, :2]).sum() + tail * (
        tail.log() - log_q_PV[:, 2:].logsumexp(-1)
    )
    torch.testing.assert_close(value.double(), expected.sum(), rtol=3e-6, atol=1e-6)
    value.backward()
    expected.sum().backward()
    torch.testing.assert_close(student_PV.grad.double(), exact_PV.grad, rtol=1e-5, atol=1e-6)


def test_a_tail_below_every_number_stays_finite(top_two):
    logits_PV = torch.tensor([[5.0, 4.0, 0.0, -1.0]])
    targets = top_two(logits_PV)
    student_PV = torch.tensor([[300.0, 299.0, 0.0, 0.0]], requires_grad=True)
    value = distillation_loss(student_PV, targets)
    value.backward()
    assert value.isfinite()
    assert student_PV.grad.isfinite().all()


@pytest.mark.parametrize("form", FORMS)
def test_columns_above_the_classes_cost_what_they_take(teacher, form):
    """Six of logit 50 beside ten near 0: −log of the mass that they leave, and their gradient is their probability."""
    some = teacher(4, 10, form)
    narrow_PV = torch.randn(4, 10)
    wide_PV = torch.cat([narrow_PV, torch.full((4, 6), 50.0)], 1).requires_grad_()
    value = distillation_loss(wide_PV, some.targets)
    taken = wide_PV.detach().logsumexp(-1) - narrow_PV.logsumexp(-1)
    torch.testing.assert_close(value, distillation_loss(narrow_PV, some.targets) + taken.mean())
    value.backward()
    torch.testing.assert_close(wide_PV.grad[:, 10:], wide_PV.detach().softmax(-1)[:, 10:] / 4)


def test_reductions_and_the_square_of_the_temperature(teacher):
    some = teacher(6, 10, "ghost")
    student_PV = torch.randn(6, 10)
    each = distillation_loss(student_PV, some.targets, temperature=2.0, reduction="none")
    plain = distillation_loss(student_PV, some.targets, temperature=2.0, reduction="none", temperature_squared=False)
    torch.testing.assert_close(each, 4 * plain)
    torch.testing.assert_close(distillation_loss(student_PV, some.targets, temperature=2.0), each.mean())
    torch.testing.assert_close(
        distillation_loss(student_PV, some.targets, temperature=2.0, reduction="sum"), each.sum()
    )


@pytest.mark.parametrize("form", FORMS)
def test_no_positions_give_zero(teacher, form):
    student_PV = torch.zeros(0, 10, requires_grad=True)
    value = distillation_loss(student_PV, teacher(0, 10, form).targets)
    value.backward()
    assert value.item() == 0
    assert student_PV.grad.shape == (0, 10)


def test_half_precision_logits_are_computed_in_float32(teacher):
    some = teacher(6, 40, "ghost")
    student_PV = torch.randn(6, 40).bfloat16()
    value = distillation_loss(student_PV, some.targets)
    assert value.dtype == torch.float32
    torch.testing.assert_close(value, distillation_loss(student_PV.float(), some.targets))


def test_a_coarsened_divergence_is_below_the_whole_one(teacher):
    whole, coarse = teacher(20, 30, "dense", seed=3), teacher(20, 30, "ghost", seed=3)
    student_PV = torch.randn(20, 30)
    exact, bound = (distillation_loss(student_PV, t.targets, reduction="none") for t in (whole, coarse))
    assert (bound <= exact + 1e-6).all()
    assert bound.mean() > 0.3 * exact.mean()


def test_faults_are_named(teacher):
    some = teacher(2, 10, "ghost")
    with pytest.raises(ConfigError, match=r"got divergence 'wasserstein', .* expected one of forward_kl"):
        distillation_loss(torch.zeros(2, 10), some.targets, kind="wasserstein")
    with pytest.raises(ConfigError, match="temperature 3 is not in the cache"):
        distillation_loss(torch.zeros(2, 10), some.targets, temperature=3.0)
