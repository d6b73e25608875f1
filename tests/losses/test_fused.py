"""The fused head and loss against logits, loss and autograd apart."""

import weakref

import pytest
import torch
from hypothesis import given, settings
from hypothesis import strategies as st
from losses.conftest import surplus_price
from torch import nn
from torch.utils._python_dispatch import TorchDispatchMode

from kdcache.losses.fused import FusedLoss
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.losses.unfused import loss_of_logits
from kdcache.models.wide_linear import WideLinear

TERMS = (make_term(name="divergence", temperature=2.0, weight=0.9), make_term(name="cross_entropy", weight=0.1))


def fused_head(D, V, bias=False, dtype=torch.float32):
    head = nn.Linear(D, V, bias=bias, dtype=dtype)
    head.__class__ = WideLinear
    return head


def plain_loss(logits_PV, teacher, labels_P, V):
    divergence_P = teacher.forward_kl(2.0, logits_PV[:, :V]) + surplus_price(logits_PV, V, 2.0)
    return 0.9 * 4 * divergence_P.sum() + 0.1 * nn.functional.cross_entropy(
        logits_PV.double(), labels_P, reduction="sum"
    )


@settings(max_examples=50, deadline=None)
@given(st.integers(0, 9), st.integers(1, 12), st.sampled_from([0, 5]), st.booleans(), st.booleans(), st.data())
def test_loss_and_gradients_equal_the_unfused_ones(teacher, P, chunk, padding, bias, frozen, data):
    D, V = 7, 20
    form = data.draw(st.sampled_from(["dense", "ghost", "renormalise", "sample"]))
    some = teacher(P, V, form, seed=P)
    torch.manual_seed(P)
    labels_P = torch.randint(0, V, (P,))
    hidden_PD = torch.randn(P, D, requires_grad=True)
    head = fused_head(D, V + padding, bias)
    head.weight.requires_grad_(not frozen)
    loss, sums_K = head(hidden_PD, task=FusedLoss(LossTerms(TERMS, V), Supervision(labels_P, some.targets), chunk))
    normaliser = max(P, 1) * 3.0
    (loss / normaliser).backward()
    leaves = [hidden_PD, *(p for p in head.parameters() if p.requires_grad)]
    got = [leaf.grad for leaf in leaves]
    expected_loss = plain_loss(head(hidden_PD), some, labels_P, V)
    expected = torch.autograd.grad(expected_loss / normaliser, leaves)
    torch.testing.assert_close(loss.double(), expected_loss, rtol=1e-5, atol=1e-5)
    assert sums_K.shape == (2,)
    assert not sums_K.requires_grad
    for gradient, oracle in zip(got, expected, strict=True):
        torch.testing.assert_close(gradient, oracle, rtol=1e-5, atol=1e-6)
    assert frozen == (head.weight.grad is None)


def test_gradcheck_in_float64(teacher):
    some = teacher(5, 8, "ghost")
    supervision = Supervision(torch.arange(5), some.targets)
    hidden_PD = torch.randn(5, 3, dtype=torch.float64, requires_grad=True)
    weight_VD = torch.randn(8, 3, dtype=torch.float64, requires_grad=True)
    bias_V = torch.randn(8, dtype=torch.float64, requires_grad=True)
    task = FusedLoss(LossTerms(TERMS, 8), supervision, chunk=2)
    assert torch.autograd.gradcheck(lambda *inputs: task(*inputs)[0], (hidden_PD, weight_VD, bias_V))


class Tiny(nn.Module):
    """A body and a head, tied or not, as a language model has them."""

    def __init__(self, tied, V=20, D=6):
        super().__init__()
        self.embed = nn.Embedding(V, D)
        self.body = nn.Linear(D, D)
        self.lm_head = nn.Linear(D, V, bias=False)
        if tied:
            self.lm_head.weight = self.embed.weight

    def hidden(self, ids_BL, flat_P):
        return torch.tanh(self.body(self.embed(ids_BL))).flatten(0, 1)[flat_P]


@pytest.mark.parametrize("tied", [False, True])
@pytest.mark.parametrize("positions", [[], [3], [0, 2, 5, 7]])
def test_in_a_model_tied_or_not_with_ragged_positions(teacher, tied, positions):
    model = Tiny(tied)
    names = list(model.state_dict())
    model.lm_head.__class__ = WideLinear
    assert list(model.state_dict()) == names
    ids_BL, flat_P = torch.randint(0, 20, (2, 4)), torch.tensor(positions, dtype=torch.int64)
    labels_P = torch.randint(0, 20, (len(positions),))
    some = teacher(len(positions), 20, "ghost")
    task = FusedLoss(LossTerms(TERMS, 20), Supervision(labels_P, some.targets), chunk=3)
    loss, _ = model.lm_head(model.hidden(ids_BL, flat_P), task=task)
    loss.backward()
    got = {name: parameter.grad for name, parameter in model.named_parameters()}
    expected_loss = plain_loss(model.lm_head(model.hidden(ids_BL, flat_P)), some, labels_P, 20)
    expected = torch.autograd.grad(expected_loss, list(model.parameters()))
    torch.testing.assert_close(loss.double(), expected_loss, rtol=1e-5, atol=1e-6)
    for (name, gradient), oracle in zip(got.items(), expected, strict=True):
        assert gradient is not None, name
        torch.testing.assert_close(gradient, oracle, rtol=1e-5, atol=1e-6)
    if not positions:
        assert loss.item() == 0


def test_half_precision_weights_compute_the_loss_in_float32(teacher):
    """Beside float64 on the same bf16 numbers: a bf16 product rounds each logit and gradient once, no more."""
    P, D, V = 40, 16, 50
    some = teacher(P, V, "ghost")
    supervision = Supervision(torch.randint(0, V, (P,)), some.targets)
    task = FusedLoss(LossTerms(TERMS, V), supervision, chunk=7)
    head = fused_head(D, V, dtype=torch.bfloat16)
    hidden_PD = torch.randn(P, D, dtype=torch.bfloat16, requires_grad=True)
    loss, _ = head(hidden_PD, task=task)
    (loss / P).backward()
    exact_hidden, exact_weight = (t.detach().double().requires_grad_() for t in (hidden_PD, head.weight))
    exact, _ = task(exact_hidden, exact_weight)
    (exact / P).backward()
    assert loss.dtype == torch.float32
    assert (hidden_PD.grad.dtype, head.weight.grad.dtype) == (torch.bfloat16, torch.bfloat16)
    torch.testing.assert_close(loss.double(), exact, rtol=2e-3, atol=0)
    for got, oracle in ((hidden_PD.grad, exact_hidden.grad), (head.weight.grad, exact_weight.grad)):
        assert (got.double() - oracle).norm() < 0.01 * oracle.norm()


def test_the_weights_gradient_is_summed_in_float32():
    """4,096 chunks of one position, each adding the same small number: a bf16 sum would stop growing at 1/256 of it."""
    P, V = 4096, 4
    task = FusedLoss(LossTerms([make_term(name="cross_entropy")], V), Supervision(torch.zeros(P, dtype=torch.int64)), 1)
    head = fused_head(2, V, dtype=torch.bfloat16)
    nn.init.zeros_(head.weight)
    loss, _ = head(torch.ones(P, 2, dtype=torch.bfloat16), task=task)
    loss.backward()
    assert head.weight.grad[:, 0].tolist() == [-3072.0, 1024.0, 1024.0, 1024.0]


def test_unfused_equals_fused_and_goes_through_a_soft_cap(teacher):
    P, D, V = 11, 6, 15
    some = teacher(P, V, "ghost")
    labels_P = torch.randint(0, V, (P,))
    head, terms, supervision = fused_head(D, V + 2), LossTerms(TERMS, V), Supervision(labels_P, some.targets)
    hidden_PD = torch.randn(P, D, requires_grad=True)
    fused, fused_K = head(hidden_PD, task=FusedLoss(terms, supervision, 4))
    unfused, unfused_K = loss_of_logits(head(hidden_PD), terms, supervision, chunk=4)
    torch.testing.assert_close(unfused, fused)
    torch.testing.assert_close(unfused_K, fused_K)
    leaves = (hidden_PD, head.weight)
    for got, expected in zip(
        torch.autograd.grad(unfused / 3, leaves), torch.autograd.grad(fused / 3, leaves), strict=True
    ):
        torch.testing.assert_close(got, expected, rtol=1e-5, atol=1e-6)
    capped_PV = 5 * torch.tanh(head(hidden_PD) / 5)
    loss, _ = loss_of_logits(capped_PV, terms, supervision)
    oracle = plain_loss(5 * torch.tanh(head(hidden_PD) / 5), some, labels_P, V)
    torch.testing.assert_close(
        torch.autograd.grad(loss, hidden_PD)[0], torch.autograd.grad(oracle, hidden_PD)[0], rtol=1e-5, atol=1e-6
    )


def test_weights_of_positions_and_terms(teacher):
    """Each term of each position by its own weight, cut into chunks with the positions; fused and not."""
    P, D, V = 11, 6, 15
    some, labels_P, weights_PK = teacher(P, V, "ghost"), torch.randint(0, V, (P,)), torch.rand(P, 2)
    head, terms, supervision = fused_head(D, V), LossTerms(TERMS, V), Supervision(labels_P, some.targets)
    hidden_PD = torch.randn(P, D, requires_grad=True)
    fused, fused_K = head(hidden_PD, task=FusedLoss(terms, supervision, 4, weights_PK))
    unfused, unfused_K = loss_of_logits(head(hidden_PD), terms, supervision, 4, weights_PK)
    logits_PV = head(hidden_PD)
    kl_P = 0.9 * 4 * some.forward_kl(2.0, logits_PV)
    nll_P = 0.1 * nn.functional.cross_entropy(logits_PV.double(), labels_P, reduction="none")
    expected = (kl_P * weights_PK[:, 0] + nll_P * weights_PK[:, 1]).sum()
    torch.testing.assert_close(fused.double(), expected, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(unfused, fused)
    torch.testing.assert_close(unfused_K, fused_K)
    oracle_PD = torch.autograd.grad(expected, hidden_PD, retain_graph=True)[0]
    for loss in (fused, unfused):
        torch.testing.assert_close(torch.autograd.grad(loss, hidden_PD)[0], oracle_PD, rtol=1e-5, atol=1e-5)


class LiveBytes(TorchDispatchMode):
    """Bytes of the tensors that operations have made and that still live: the peak, and the largest single one."""

    def __init__(self, *inputs):
        super().__init__()
        self.inputs = {tensor.untyped_storage().data_ptr() for tensor in inputs}
        self.storages, self.peak, self.largest = {}, 0, 0

    def __torch_dispatch__(self, function, types, args=(), kwargs=None):
        out = function(*args, **(kwargs or {}))
        for tensor in out if isinstance(out, (tuple, list)) else (out,):
            if isinstance(tensor, torch.Tensor):
                self._saw(tensor)
        return out

    def _saw(self, tensor):
        storage = tensor.untyped_storage()
        key = storage.data_ptr()
        if key in self.inputs:
            return
        owners = self.storages.setdefault(key, [storage.nbytes(), 0])
        owners[1] += 1
        weakref.finalize(tensor, self._forget, key)
        self.peak = max(self.peak, sum(size for size, _ in self.storages.values()))
        self.largest = max(self.largest, storage.nbytes())

    def _forget(self, key):
        self.storages[key][1] -= 1
        if self.storages[key][1] == 0:
            del self.storages[key]


@pytest.mark.parametrize("form", ["ghost", "renormalise", "labels"])
def test_memory_is_one_chunk_of_logits_and_the_gradients(teacher, form):
    P, D, V, chunk = 512, 8, 2048, 32
    configs = TERMS[1:] if form == "labels" else TERMS[:1]
    targets = None if form == "labels" else teacher(P, V, form).targets
    labels_P = torch.zeros(P, dtype=torch.int64)
    task = FusedLoss(LossTerms(configs, V), Supervision(labels_P, targets), chunk)
    head, hidden_PD = fused_head(D, V), torch.randn(P, D, requires_grad=True)
    chunk_bytes, gradient_bytes = 4 * chunk * V, 4 * (P * D + V * D)
    of_targets = []
    if targets is not None:
        of_targets = [targets.ids_PE, targets.relative_PE, targets.maximum_P, targets.inclusion_PE]
    with LiveBytes(hidden_PD, head.weight, labels_P, *of_targets) as live:
        loss, _ = head(hidden_PD, task=task)
    assert loss.requires_grad
    assert live.largest <= chunk_bytes
    assert gradient_bytes + chunk_bytes <= live.peak <= gradient_bytes + 1.1 * chunk_bytes


def test_nothing_is_kept_or_computed_for_gradients_under_no_grad(teacher):
    head, some = fused_head(6, 30), teacher(9, 30, "ghost")
    task = FusedLoss(LossTerms(TERMS, 30), Supervision(torch.zeros(9, dtype=torch.int64), some.targets), 4)
    hidden_PD = torch.randn(9, 6, requires_grad=True)
    with torch.no_grad(), LiveBytes(hidden_PD, head.weight) as live:
        loss, _ = head(hidden_PD, task=task)
    assert not loss.requires_grad
    assert live.largest < 4 * 9 * 30
    torch.testing.assert_close(loss, head(hidden_PD, task=task)[0].detach())
