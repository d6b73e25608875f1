"""Terms of raw outputs against autograd of torch's own functions, alone and beside terms of a softmax."""

import pytest
import torch
from torch.nn.functional import cosine_similarity, cross_entropy, mse_loss

from kdcache.errors import ConfigError
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.losses.unfused import loss_of_logits

P, K = 7, 5
ORACLES = {
    "squared_error": lambda x, y: mse_loss(x, y, reduction="none").mean(-1),
    "cosine": lambda x, y: 1 - cosine_similarity(x, y, dim=-1),
}


@pytest.mark.parametrize("name", ORACLES)
@pytest.mark.parametrize("against", ["teacher", "labels"])
@pytest.mark.parametrize("surplus", [0, 3])
@pytest.mark.parametrize("dtype", [torch.float32, torch.float64])
def test_value_and_gradient_are_those_of_torch(teacher, name, against, surplus, dtype):
    some, wide_PK = teacher(P, K, "dense"), torch.randn(P, K + surplus, dtype=dtype, requires_grad=True)
    labels_PK, weights_P1 = torch.randn(P, K), torch.rand(P, 1, dtype=dtype)
    values_PK = (some.logits_PV if against == "teacher" else labels_PK).to(dtype)
    terms = LossTerms([make_term(name, against=against, weight=0.7)], K)
    assert terms.names == (f"{name}_{against}",)
    for given_P1 in (None, weights_P1):
        got_PK = wide_PK.detach().clone()
        sums_K = terms.value_and_gradient_(got_PK, Supervision(labels_PK, some.targets), given_P1)
        expected_P = ORACLES[name](wide_PK[:, :K], values_PK) * (1 if given_P1 is None else given_P1[:, 0])
        (expected_PK,) = torch.autograd.grad(0.7 * expected_P.sum(), wide_PK)
        torch.testing.assert_close(sums_K[0], expected_P.sum().detach().double(), rtol=1e-5, atol=1e-5)
        torch.testing.assert_close(got_PK, expected_PK, rtol=1e-5, atol=1e-6)


@pytest.mark.parametrize("name", ORACLES)
def test_gradients_by_finite_differences_beside_a_softmax(teacher, name):
    """The raw outputs are read before a softmax overwrites them; a mixture's shifts them by the row's largest."""
    some = teacher(P, K, "dense")
    settings = [{"name": "divergence", "temperature": 2.0}, {"name": name, "weight": 0.3}, {"name": "entropy"}]
    terms = LossTerms([make_term(**one) for one in settings], K)
    outputs_PK = torch.randn(P, K, dtype=torch.float64, requires_grad=True)
    supervision = Supervision(torch.zeros(P, dtype=torch.int64), some.targets)
    assert torch.autograd.gradcheck(lambda x: loss_of_logits(x, terms, supervision, chunk=3)[0], outputs_PK)


def test_sums_beside_cross_entropy_are_each_ones_own(teacher):
    some, outputs_PK, labels_P = teacher(P, K, "dense"), torch.randn(P, K), torch.arange(P) % K
    terms = LossTerms([make_term("squared_error"), make_term("cross_entropy"), make_term("bottleneck")], K)
    sums_K = terms.value_and_gradient_(outputs_PK.clone(), Supervision(labels_P, some.targets))
    expected = [mse_loss(outputs_PK, some.logits_PV, reduction="none").mean(-1).sum().item()]
    expected += [cross_entropy(outputs_PK, labels_P, reduction="sum").item(), 0.0]
    torch.testing.assert_close(sums_K.tolist(), expected, rtol=1e-5, atol=1e-5)


@pytest.mark.parametrize("name", ORACLES)
def test_values_that_are_not_there_count_nothing(name):
    labels_PK = torch.randn(3, K)
    labels_PK[0] = torch.nan
    labels_PK[1, 2] = torch.nan
    outputs_PK = torch.randn(3, K)
    gradient_PK = outputs_PK.clone()
    terms = LossTerms([make_term(name, against="labels")], K)
    sums_K = terms.value_and_gradient_(gradient_PK, Supervision(labels_PK))
    whole = ORACLES[name](outputs_PK[2:], labels_PK[2:]).sum()
    known_C = torch.tensor([True, True, False, True, True])
    part = ((outputs_PK - labels_PK)[1, known_C] ** 2).sum() / K if name == "squared_error" else 0.0
    torch.testing.assert_close(sums_K[0].float(), whole + part)
    assert (gradient_PK[0] == 0).all()
    assert gradient_PK[1, 2] == 0
    assert gradient_PK.isfinite().all()


def test_outputs_without_a_direction():
    gradient_PK = torch.zeros(2, K)
    terms = LossTerms([make_term("cosine", against="labels")], K)
    sums_K = terms.value_and_gradient_(gradient_PK, Supervision(torch.ones(2, K)))
    assert sums_K.item() == 0
    assert (gradient_PK == 0).all()


def test_one_score_for_each_label():
    """A regression's labels are [P] where there is one output."""
    outputs_P1, labels_P = torch.randn(P, 1), torch.randn(P)
    terms = LossTerms([make_term("squared_error", against="labels")], 1)
    sums_K = terms.value_and_gradient_(outputs_P1.clone(), Supervision(labels_P))
    torch.testing.assert_close(sums_K[0].float(), mse_loss(outputs_P1[:, 0], labels_P, reduction="sum"))


def test_what_cannot_be_compared_is_said_before_a_run(teacher):
    sparse = teacher(P, K, "ghost").targets
    with pytest.raises(ConfigError, match="got a squared_error term against the teacher on sparse records"):
        LossTerms([make_term("squared_error")], K).check(sparse)
    LossTerms([make_term("squared_error", against="labels")], K).check(sparse)
    classes, values = torch.zeros(P, dtype=torch.int64), torch.zeros(P, K + 1)
    for labels, message in ((classes, "numbers of classes"), (values, "got 6 values for each label, expected 5")):
        with pytest.raises(ConfigError, match=message):
            LossTerms([make_term("squared_error", against="labels")], K).value_and_gradient_(
                torch.zeros(P, K), Supervision(labels)
            )
    with pytest.raises(ConfigError, match="cosine term of one output"):
        LossTerms([make_term("cosine", against="labels")], 1).value_and_gradient_(
            torch.zeros(P, 1), Supervision(torch.zeros(P))
        )
