"""Packed documents give the logits they give alone, in real models; and what cannot is refused."""

import numpy as np
import pyarrow as pa
import pytest
import torch
import transformers
from hypothesis import given, settings
from hypothesis import strategies as st
from readers import reader

from kdcache.models.inputs import flat_positions, flattens, model_inputs
from kdcache.tasks.causal_lm import CausalLMConfig

V = 512
SMALL = {
    "vocab_size": V,
    "hidden_size": 32,
    "intermediate_size": 48,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "num_key_value_heads": 2,
    "bos_token_id": 0,
    "eos_token_id": 0,
    "pad_token_id": 0,
    "initializer_range": 0.2,
}
CONFIGS = {
    "llama": lambda: transformers.LlamaConfig(**SMALL),
    "qwen2": lambda: transformers.Qwen2Config(**SMALL),
    "gemma2": lambda: transformers.Gemma2Config(**SMALL, head_dim=8, sliding_window=8),
    "gpt2": lambda: transformers.GPT2Config(
        vocab_size=V, n_embd=32, n_layer=2, n_head=4, bos_token_id=0, eos_token_id=0, initializer_range=0.2
    ),
}
MODELS = [("llama", "sdpa"), ("llama", "eager"), ("qwen2", "sdpa"), ("qwen2", "eager")]
MODELS += [("gpt2", "sdpa"), ("gpt2", "eager"), ("gemma2", "eager")]


def build(name: str, attention: str = "sdpa") -> torch.nn.Module:
    torch.manual_seed(0)
    return transformers.AutoModelForCausalLM.from_config(CONFIGS[name](), attn_implementation=attention).eval()


@pytest.fixture(scope="module")
def packed(gpt_tokenizer):
    """Windows of 16 tokens of documents of many lengths, the last one shorter."""
    texts = ["hello world, how are you today?", "fox", "again and again", "The quick brown fox", "I am fine. " * 3]
    task = reader(CausalLMConfig(sequence_length=16), gpt_tokenizer)
    examples, _ = task.examples(pa.table({"text": texts}), str)
    assert len({len(e.tokens) for e in examples}) == 2
    assert max(len(e.documents) for e in examples) > 2
    return examples


@torch.no_grad()
def run(model, tokens, documents, attention, flatten=False):
    inputs = model_inputs(tokens, documents, attention, flatten)
    out = model(**inputs.arguments, use_cache=False)
    return out.logits.flatten(0, 1)


@pytest.mark.parametrize(("name", "attention"), MODELS)
def test_packed_documents_are_as_if_alone(packed, name, attention):
    model = build(name, attention)
    width = max(len(e.tokens) for e in packed)
    logits = run(model, [e.tokens for e in packed], [e.documents for e in packed], "document").view(
        len(packed), width, V
    )
    worst = leak = 0.0
    for row, example in enumerate(packed):
        stop = 0
        for length in example.documents.tolist():
            start, stop = stop, stop + length
            alone = run(model, [example.tokens[start:stop]], [np.array([length])], "causal")
            worst = max(worst, (logits[row, start:stop] - alone).abs().max().item())
        joined = run(model, [example.tokens], [np.array([stop])], "causal")
        leak = max(leak, (logits[row, :stop] - joined).abs().max().item())
    assert worst < 1e-4
    assert leak > 1e-2, "the test could not tell packed from joined"


def test_one_flat_row_gives_the_same_logits(packed):
    model = build("llama")
    tokens, documents = [e.tokens for e in packed], [e.documents for e in packed]
    flat = run(model, tokens, documents, "document", flatten=True)
    assert (flat - run(model, tokens, documents, "document")).abs().max() < 1e-4


def test_padding_changes_nothing_when_attention_is_causal(packed):
    model = build("gpt2")
    tokens = [packed[0].tokens, packed[-1].tokens]
    both = run(model, tokens, [], "causal").view(2, -1, V)
    short = len(tokens[1])
    assert short < len(tokens[0])
    assert (both[1, :short] - run(model, tokens[1:], [], "causal")).abs().max() < 1e-4


def test_flash_attention_wants_one_row():
    model = build("llama")
    assert not flattens(model, "document")
    model.config._attn_implementation_internal = "flash_attention_2"
    assert flattens(model, "document")
    assert not flattens(model, "causal")


rows = st.lists(st.lists(st.integers(1, 6), min_size=1, max_size=4), min_size=1, max_size=4)


@settings(max_examples=100, deadline=None)
@given(rows, st.sampled_from(["document", "causal"]), st.booleans(), st.data())
def test_inputs_and_flat_positions(lengths, attention, flatten, data):
    tokens = [np.arange(1, sum(row) + 1) + 100 * number for number, row in enumerate(lengths)]
    documents = [np.array(row) for row in lengths]
    inputs = model_inputs(tokens, documents, attention, flatten)
    width = max(map(len, tokens))
    packed = attention == "document" and any(len(row) > 1 for row in lengths)
    flat = packed and flatten
    assert inputs.arguments["input_ids"].shape == ((1, len(tokens) * width) if flat else (len(tokens), width))
    assert ("position_ids" in inputs.arguments) == packed
    ids = inputs.arguments["input_ids"].view(-1, width)
    places = inputs.arguments.get("position_ids", ids).view(-1, width)
    assert ids.dtype == places.dtype == torch.int64
    for number, row in enumerate(lengths):
        size = sum(row)
        assert ids[number].tolist() == [*tokens[number].tolist(), *[0] * (width - size)]
        if packed:
            assert places[number].tolist() == [t for piece in [*row, width - size] for t in range(piece)]
    positions = [np.array(sorted(data.draw(st.sets(st.integers(0, len(row) - 1)))), np.int64) for row in tokens]
    flat = flat_positions(positions, width)
    assert flat.dtype == torch.int64
    chosen = [int(row[t]) for row, places in zip(tokens, positions, strict=True) for t in places]
    assert inputs.arguments["input_ids"].flatten()[flat].tolist() == chosen
