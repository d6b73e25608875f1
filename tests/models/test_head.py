"""Last layers with float32 logits, against float64 ones of the same half-precision weights and hidden states."""

import copy
from typing import Any

import pytest
import torch
from torch import Tensor, nn

from kdcache.models.head import Head
from kdcache.models.taps import inputs_of
from kdcache.models.wide_linear import WideLinear

SMALL = {
    "vocab_size": 60,
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_labels": 3,
    "initializer_range": 0.3,
    "pad_token_id": 0,
}


@pytest.mark.parametrize("dtype", [torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
def test_logits_and_gradients(dtype: torch.dtype, bias: bool) -> None:
    """Logits to float32; gradients to what half precision keeps of them."""
    torch.manual_seed(0)
    layer = nn.Linear(48, 100, bias=bias, dtype=dtype)
    exact = copy.deepcopy(layer).double()
    layer.__class__ = WideLinear
    hidden = torch.randn(2, 5, 48, dtype=dtype).requires_grad_()
    wanted = torch.randn(2, 5, 100)
    hidden_exact = hidden.detach().double().requires_grad_()
    logits, logits_exact = layer(hidden), exact(hidden_exact)
    assert logits.dtype is torch.float32
    torch.testing.assert_close(logits.double(), logits_exact, rtol=1e-6, atol=1e-6)
    (logits * wanted).sum().backward()
    (logits_exact * wanted.double()).sum().backward()
    pairs = [(hidden, hidden_exact), *zip(layer.parameters(), exact.parameters(), strict=True)]
    for got, expected in pairs:
        assert got.grad is not None
        assert expected.grad is not None
        assert got.grad.dtype is dtype
        assert (got.grad.double() - expected.grad).norm() < 5e-3 * expected.grad.norm()


@pytest.mark.parametrize("dtype", [torch.float32, torch.bfloat16, torch.float16])
@pytest.mark.parametrize("bias", [False, True])
def test_logits_in_given_memory_are_the_same_bits_once(dtype: torch.dtype, bias: bool) -> None:
    """A second call inside has memory of its own: a head that calls its layer twice needs both."""
    torch.manual_seed(0)
    layer, memory = nn.Linear(64, 1000, bias=bias, dtype=dtype), torch.empty(64 * 1000)
    layer.__class__ = WideLinear
    for rows in (64, 33, 1):
        hidden = torch.randn(1, rows, 64, dtype=dtype)
        with torch.inference_mode():
            expected = layer(hidden)
            with layer.into(memory):
                first, second = layer(hidden), layer(hidden)
        assert torch.equal(first, expected)
        assert torch.equal(second, expected)
        assert first.shape == expected.shape
        assert first.dtype is torch.float32
        assert first.data_ptr() == memory.data_ptr() != second.data_ptr()
    assert layer(hidden).data_ptr() != memory.data_ptr()


def test_full_precision_is_left_alone() -> None:
    layer, hidden = nn.Linear(8, 5), torch.randn(3, 8)
    expected = layer(hidden)
    layer.__class__ = WideLinear
    assert torch.equal(layer(hidden), expected)
    with torch.autocast("cpu", dtype=torch.bfloat16):
        assert layer(hidden).dtype is torch.bfloat16


def test_a_forward_that_accelerate_has_taken_over() -> None:
    """As for a model whose layers lie on several devices."""
    from accelerate.hooks import ModelHook, add_hook_to_module
    from transformers import AutoConfig, AutoModelForCausalLM

    model = AutoModelForCausalLM.from_config(AutoConfig.for_model("llama", **SMALL), dtype=torch.bfloat16)
    add_hook_to_module(model.lm_head, ModelHook())
    assert Head.of(model).layer is model.lm_head
    assert model(input_ids=torch.arange(1, 9)[None]).logits.dtype is torch.float32


def of_class(task: str, model_type: str) -> Any:
    import transformers

    torch.manual_seed(0)
    config = transformers.AutoConfig.for_model(model_type, **SMALL)
    return getattr(transformers, f"AutoModelFor{task}").from_config(config, dtype=torch.bfloat16).eval()


CLASSIFIERS = [
    *(("SequenceClassification", name) for name in ("bert", "roberta", "distilbert", "electra", "llama", "deberta-v2")),
    *(("TokenClassification", name) for name in ("bert", "roberta", "electra")),
]


@pytest.mark.parametrize(("task", "model_type"), CLASSIFIERS)
def test_the_last_layer_of_a_classifier(task: str, model_type: str) -> None:
    model = of_class(task, model_type)
    head = Head.of(model)
    (layer,) = [module for module in model.modules() if type(module) is WideLinear]
    assert head.layer is layer
    assert not head.generates
    ids = torch.arange(1, 9)[None]
    with torch.no_grad(), inputs_of(layer) as seen:
        logits: Tensor = model(input_ids=ids, attention_mask=torch.ones_like(ids)).logits
        given = seen[0].double()
        exact = nn.functional.linear(given, layer.weight.double(), None if layer.bias is None else layer.bias.double())
    if model_type == "llama":
        exact = exact[:, -1]
    assert logits.dtype is torch.float32
    torch.testing.assert_close(logits.double(), exact, rtol=1e-5, atol=1e-6)


def test_a_head_that_is_no_plain_linear_layer_is_left_alone() -> None:
    class Mine(nn.Linear):
        pass

    model = of_class("CausalLM", "llama")
    model.lm_head.__class__ = Mine
    head = Head.of(model)
    assert (head.layer, head.fuses) == (None, False)
    assert type(model.lm_head) is Mine


@pytest.mark.parametrize("task", ["SequenceClassification", "TokenClassification"])
def test_a_decoders_head_reads_the_last_token_for_an_example_and_each_for_tokens(task: str) -> None:
    """Both heads are called score; what is recorded or guessed at a position is what makes its logits."""
    head = Head.of(of_class(task, "llama"))
    ids, flat_P = torch.tensor([[5, 6, 7, 0], [8, 9, 4, 3]]), torch.tensor([1, 6])
    states = torch.arange(8.0).reshape(2, 4, 1)
    logits = torch.zeros(2, 3) if task == "SequenceClassification" else torch.zeros(2, 4, 3)
    expected = [2.0, 7.0] if task == "SequenceClassification" else [1.0, 6.0]
    assert head.at_positions(states, logits, ids, flat_P).flatten().tolist() == expected
