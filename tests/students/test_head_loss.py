"""HeadLoss in a loop of a user's own: the gradient of every weight of a student is that of its whole logits."""

import pytest
import torch
from families import FAMILIES, SMALL
from losses.conftest import make_teacher
from torch import nn
from train.tiny import student_config, write_cache

from kdcache.errors import ConfigError
from kdcache.losses.distillation import distillation_loss
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.models.head import Head
from kdcache.store.cache import Cache, open_cache
from kdcache.students.collate import Collator
from kdcache.students.head_loss import HeadLoss
from kdcache.students.making import make_student
from kdcache.students.settings import StudentConfig

V, L = 330, 17
TERMS = LossTerms([make_term(name="divergence", temperature=2.0)], V)


OF_HEADS = FAMILIES | {
    "gemma3_text": {**SMALL, "head_dim": 8, "final_logit_softcapping": 5.0},
    "cohere2": {**SMALL, "logit_scale": 0.25},
    "falcon_h1": {
        **SMALL,
        "lm_head_multiplier": 0.5,
        "mamba_d_ssm": 32,
        "mamba_n_heads": 4,
        "mamba_d_head": 8,
        "mamba_d_state": 8,
        "mamba_n_groups": 1,
        "mamba_chunk_size": 8,
    },
}
"""Families with a soft-cap, a scale or a bias among plain ones."""


@pytest.fixture(autouse=True)
def seeded() -> None:
    torch.manual_seed(0)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return open_cache(write_cache(tmp_path_factory.mktemp("head") / "cache", examples=8))


def student_of(family: str):
    from transformers import AutoConfig, AutoModelForCausalLM

    torch.manual_seed(0)
    return AutoModelForCausalLM.from_config(AutoConfig.for_model(family, **OF_HEADS[family])).eval()


@pytest.mark.parametrize("family", OF_HEADS)
def test_gradients_are_those_of_whole_logits(family):
    supervision = Supervision(torch.arange(L), make_teacher(L, V, "ghost").targets)
    student, ids_1L = student_of(family), torch.arange(1, L + 1)[None]
    logits_PV = student(ids_1L, use_cache=False).logits[0]
    expected_loss = distillation_loss(logits_PV, supervision.targets, temperature=2.0, reduction="sum")
    (expected_loss / L).backward()
    expected = {name: parameter.grad.clone() for name, parameter in student.named_parameters()}
    student.zero_grad()
    head = Head.of(student)
    hidden_PD = head.hidden(input_ids=ids_1L, use_cache=False)[0]
    loss, sums_K = HeadLoss(TERMS, chunk=5).with_sums(hidden_PD, head, supervision)
    (loss / L).backward()
    torch.testing.assert_close(loss, expected_loss, rtol=1e-5, atol=1e-5)
    torch.testing.assert_close(4 * sums_K[0].item(), expected_loss.item(), rtol=1e-5, atol=1e-5)
    for name, parameter in student.named_parameters():
        largest = float(expected[name].abs().max())
        torch.testing.assert_close(parameter.grad, expected[name], rtol=1e-4, atol=1e-4 * largest)


def test_a_plain_layer_does_as_a_head():
    supervision = Supervision(torch.arange(L), make_teacher(L, V, "ghost").targets)
    layer, hidden_PD = nn.Linear(8, V), torch.randn(L, 8, requires_grad=True)
    module = HeadLoss(TERMS, chunk=5)
    loss = module(hidden_PD, layer, supervision)
    expected = distillation_loss(layer(hidden_PD), supervision.targets, temperature=2.0, reduction="sum")
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    leaves = [hidden_PD, layer.weight, layer.bias]
    for got, oracle in zip(*(torch.autograd.grad(each, leaves) for each in (loss, expected)), strict=True):
        torch.testing.assert_close(got, oracle, rtol=1e-4, atol=1e-5)
    assert type(layer) is nn.Linear
    assert [*module.parameters()] == []


def test_a_head_that_does_something_unknown_is_refused():
    student = student_of("llama")
    student.lm_head.register_forward_hook(lambda _, __, logits: logits.sinh())
    with pytest.raises(ConfigError, match="the head of LlamaForCausalLM is more than a linear layer with a scale"):
        HeadLoss(TERMS)(torch.randn(L, 32), Head.of(student), Supervision(torch.arange(L)))


@pytest.mark.parametrize("given", ["inputs and all tokens", "inputs", "batch", "supervision"])
def test_a_batch_a_collators_inputs_and_a_supervision_are_one_loss(cache: Cache, given: str) -> None:
    student = make_student(StudentConfig(config=student_config()), cache, 0).eval()
    batch, terms = cache.read(0, 5), LossTerms([make_term(name="divergence", kind="jsd")], 300)
    inputs, head = Collator(student, cache)(batch), Head.of(student)
    logits_PV = inputs.at_positions(student(**inputs.model.arguments, use_cache=False).logits)
    expected = distillation_loss(logits_PV, batch.targets(), kind="jsd", reduction="sum")
    (expected / batch.num_positions).backward()
    gradients = [parameter.grad.clone() for parameter in student.parameters()]
    student.zero_grad()
    hidden_BLD = head.hidden(**inputs.model.arguments, use_cache=False)
    whole = given == "inputs and all tokens"
    compared = {"batch": batch, "supervision": inputs.supervision}.get(given, inputs)
    loss = HeadLoss(terms, chunk=7)(hidden_BLD if whole else inputs.at_positions(hidden_BLD), head, compared)
    (loss / batch.num_positions).backward()
    torch.testing.assert_close(loss, expected, rtol=1e-5, atol=1e-5)
    for parameter, gradient in zip(student.parameters(), gradients, strict=True):
        torch.testing.assert_close(parameter.grad, gradient, rtol=1e-4, atol=1e-4 * float(gradient.abs().max()))


def test_what_is_compared_goes_to_the_device_of_the_hidden_states(
    cache: Cache, monkeypatch: pytest.MonkeyPatch
) -> None:
    """On the meta device, which holds no numbers."""
    student = make_student(StudentConfig(config=student_config()), cache, 0)
    inputs, seen = Collator(student, cache)(cache.read(0, 3)), []

    class Task:
        def __init__(self, terms, supervision, chunk, weights_PK) -> None:
            seen.append(supervision)

        def __call__(self, hidden_PD, weight, bias):
            return hidden_PD.sum(), hidden_PD

    monkeypatch.setattr("kdcache.students.head_loss.FusedLoss", Task)
    B, L = inputs.real_BL.shape
    module, layer = HeadLoss(LossTerms([make_term(name="divergence")], 300)), nn.Linear(32, 300, device="meta")
    for hidden in (torch.empty(B, L, 32, device="meta"), torch.empty(len(inputs.flat_P), 32, device="meta")):
        assert module(hidden, layer, inputs).is_meta
    module(hidden, layer, cache.read(0, 3))
    assert [(one.labels_P.is_meta, one.targets.ids_PE.is_meta) for one in seen] == [(True, True)] * 3
    assert inputs.flat_P.device.type == "cpu"


def test_hidden_states_of_other_positions_are_refused(cache: Cache) -> None:
    batch, module = cache.read(0, 3), HeadLoss(LossTerms([make_term(name="divergence")], 300))
    with pytest.raises(
        ConfigError, match=rf"got hidden states of shape \[3, 7, 32\], expected \[{batch.num_positions}, "
    ):
        module(torch.zeros(3, 7, 32), nn.Linear(32, 300), batch)


def test_terms_that_are_not_of_logits_are_refused() -> None:
    """They would be left out without a word."""
    with pytest.raises(ConfigError, match=r"got terms that look at a whole forward pass \(bottleneck\).*with_loss"):
        HeadLoss(LossTerms([make_term(name="bottleneck", width=3)], 300))
