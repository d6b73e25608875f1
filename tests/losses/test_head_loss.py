"""HeadLoss in a loop of a user's own: the gradient of every weight of a student is that of its whole logits."""

import pytest
import torch
from families import FAMILIES
from torch import nn

from kdcache.errors import ConfigError
from kdcache.losses.distillation import distillation_loss
from kdcache.losses.head_loss import HeadLoss
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.models.head import Head

V, L = 330, 17
TERMS = LossTerms([make_term(name="divergence", temperature=2.0)], V)


def student_of(family: str):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **FAMILIES[family])).eval()


@pytest.mark.parametrize("family", ["llama", "gemma2", "granite", "cohere", "phi"])
def test_gradients_are_those_of_whole_logits(teacher, family):
    supervision = Supervision(torch.arange(L), teacher(L, V, "ghost").targets)
    student, ids_1L = student_of(family), torch.arange(1, L + 1)[None]
    logits_PV = student(ids_1L, use_cache=False).logits[0]
    expected_loss = distillation_loss(logits_PV, supervision.targets, temperature=2.0, reduction="sum")
    (expected_loss / L).backward()
    expected = {name: parameter.grad.clone() for name, parameter in student.named_parameters()}
    student.zero_grad()
    head = Head.of(student)
    hidden_PD = head.hidden(input_ids=ids_1L, use_cache=False)[0]
    loss, sums_K = HeadLoss(TERMS, chunk=5)(hidden_PD, head, supervision)
    (loss / L).backward()
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(4 * sums_K[0].item(), expected_loss.item(), rtol=1e-5, atol=1e-5)
    for name, parameter in student.named_parameters():
        largest = float(expected[name].abs().max())
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-4 * largest)


def test_a_plain_layer_does_as_a_head(teacher):
    supervision = Supervision(torch.arange(L), teacher(L, V, "ghost").targets)
    layer, hidden_PD = nn.Linear(8, V), torch.randn(L, 8, requires_grad=True)
    module = HeadLoss(TERMS, chunk=5)
    loss, _ = module(hidden_PD, layer, supervision)
    expected = distillation_loss(layer(hidden_PD), supervision.targets, temperature=2.0, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    leaves = [hidden_PD, layer.weight, layer.bias]
    for got, oracle in zip(*(torch.autograd.grad(each, leaves) for each in (loss, expected)), strict=True):
        torch.testing.assert_close(got, oracle, rtol=1e-4, atol=1e-5)
    assert type(layer) is nn.Linear
    assert [*module.parameters()] == []


def test_a_head_that_does_something_unknown_is_refused(teacher):
    student = student_of("llama")
    student.lm_head.register_forward_hook(lambda _, __, logits: logits.sinh())
    with pytest.raises(ConfigError, match="the head of LlamaForCausalLM is more than a linear layer with a scale"):
        HeadLoss(TERMS)(torch.randn(L, 32), Head.of(student), Supervision(torch.arange(L)))
