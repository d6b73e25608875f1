"""The fused loss and held-out sums of heads with a soft-cap and a scale, against dense float64 logits and autograd.

P positions, D hidden width, V classes.
"""

import pytest
import torch
from losses.conftest import surplus_price
from losses.test_fused import LiveBytes
from torch import Tensor, nn

from kdcache.losses.fused import FusedLoss
from kdcache.losses.metrics import FusedSums, measure
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.losses.unfused import loss_of_logits
from kdcache.targets.output_layer import PostFunction

P, D, V, SURPLUS = 23, 6, 15, 3
TERMS = (make_term(name="divergence", temperature=2.0, weight=0.9), make_term(name="cross_entropy", weight=0.1))
POSTS = [PostFunction(0.25), PostFunction(3.0), PostFunction(soft_cap=2.0), PostFunction(0.5, 4.0), PostFunction()]


def after(post: PostFunction, logits_PV: Tensor) -> Tensor:
    logits_PV = logits_PV * post.scale
    return logits_PV if post.soft_cap is None else post.soft_cap * torch.tanh(logits_PV / post.soft_cap)


def leaves_of(bias: bool, dtype: torch.dtype = torch.float32) -> list[Tensor]:
    """Hidden states, weight and bias whose logits reach far into the cap."""
    rng = torch.Generator().manual_seed(3)
    shapes = [(P, D), (V + SURPLUS, D), *([(V + SURPLUS,)] if bias else [])]
    return [(2 * torch.randn(shape, generator=rng)).to(dtype).requires_grad_() for shape in shapes]


@pytest.mark.parametrize("bias", [False, True])
@pytest.mark.parametrize("post", POSTS, ids=str)
@pytest.mark.parametrize("form", ["dense", "ghost"])
def test_values_and_all_gradients_are_those_of_dense_float64_logits(teacher, form, post, bias):
    some, labels_P = teacher(P, V, form), torch.arange(P) % V
    leaves = leaves_of(bias)
    task = FusedLoss(LossTerms(TERMS, V), Supervision(labels_P, some.targets), chunk=5)
    loss, sums_K = task(*leaves, post=post)
    got = torch.autograd.grad(loss / 7, leaves)

    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    logits_PV = after(post, nn.functional.linear(*exact))
    kl = (some.forward_kl(2.0, logits_PV[:, :V]) + surplus_price(logits_PV, V, 2.0)).sum()
    nll = nn.functional.cross_entropy(logits_PV, labels_P, reduction="sum")
    oracle = 0.9 * 4 * kl + 0.1 * nll
    torch.testing.assert_close(loss.double(), oracle, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(sums_K, torch.stack([kl, nll]).detach(), rtol=1e-5, atol=1e-5)
    for gradient, expected in zip(got, torch.autograd.grad(oracle / 7, exact), strict=True):
        torch.testing.assert_close(gradient.double(), expected, rtol=1e-4, atol=1e-5)


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("post", [PostFunction(1 / 64), PostFunction(soft_cap=3.0)], ids=str)
def test_half_precision_loses_no_more_than_its_products_round(teacher, post, dtype):
    """A small scale makes small gradients, which float16 must not lose before the loss scale meets them."""
    supervision = Supervision(torch.arange(P) % V, teacher(P, V, "ghost").targets)
    task = FusedLoss(LossTerms(TERMS, V), supervision, chunk=9)
    leaves = leaves_of(bias=True, dtype=dtype)
    exact = [leaf.detach().double().requires_grad_() for leaf in leaves]
    got = torch.autograd.grad(task(*leaves, post=post)[0], leaves)
    expected = torch.autograd.grad(task(*exact, post=post)[0], exact)
    for gradient, oracle in zip(got, expected, strict=True):
        assert gradient.dtype is dtype
        assert (gradient.double() - oracle).norm() < 0.01 * oracle.norm()


@pytest.mark.parametrize("post", POSTS, ids=str)
def test_fused_equals_unfused(teacher, post):
    supervision = Supervision(torch.arange(P) % V, teacher(P, V, "ghost").targets)
    terms, leaves = LossTerms(TERMS, V), leaves_of(bias=True)
    fused, fused_K = FusedLoss(terms, supervision, chunk=4)(*leaves, post=post)
    logits_PV = after(post, nn.functional.linear(*leaves))
    unfused, unfused_K = loss_of_logits(logits_PV, terms, supervision, chunk=4)
    torch.testing.assert_close(fused, unfused)
    torch.testing.assert_close(fused_K, unfused_K)
    for one, other in zip(*(torch.autograd.grad(loss, leaves) for loss in (fused, unfused)), strict=True):
        torch.testing.assert_close(one, other, rtol=1e-4, atol=1e-5)
    sums = FusedSums(supervision, temperature=2.0, chunk=4)(*leaves, post=post)
    expected = measure(logits_PV.detach(), supervision, temperature=2.0).vector
    torch.testing.assert_close(sums, expected, equal_nan=True)


@pytest.mark.parametrize(("post", "chunks"), [(PostFunction(0.5), 1), (PostFunction(soft_cap=5.0), 2)], ids=str)
def test_memory_of_a_scale_is_nothing_and_of_a_soft_cap_one_more_chunk(post, chunks):
    positions, width, classes, chunk = 512, 8, 2048, 32
    labels_P = torch.zeros(positions, dtype=torch.int64)
    task = FusedLoss(LossTerms(TERMS[1:], classes), Supervision(labels_P), chunk)
    hidden_PD = torch.randn(positions, width, requires_grad=True)
    weight_VD = torch.randn(classes, width, requires_grad=True)
    chunk_bytes, gradient_bytes = 4 * chunk * classes, 4 * (positions + classes) * width
    with LiveBytes(hidden_PD, weight_VD, labels_P) as live:
        task(hidden_PD, weight_VD, post=post)
    assert gradient_bytes + chunks * chunk_bytes <= live.peak <= gradient_bytes + (chunks + 0.1) * chunk_bytes
    with torch.no_grad(), LiveBytes(hidden_PD, weight_VD, labels_P) as live:
        task(hidden_PD, weight_VD, post=post)
    assert live.peak <= 1.1 * chunk_bytes
