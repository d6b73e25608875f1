"""What neighbours in a batch or a packed window do to models of many families, and how they are fed all the same."""

from collections.abc import Iterator, Sequence
from dataclasses import replace
from typing import Any

import numpy as np
import pytest
import torch
import transformers
from many_models import CAUSAL, LLAMA, SEQUENCE, TAGS, V, model_of

from kdcache.errors import KdcacheError
from kdcache.models.feeding import Feeding
from kdcache.models.neighbours import Findings, find_feeding, may_be_packed
from kdcache.models.probes import make_probes, resized
from kdcache.models.registry import register_small_models
from kdcache.tasks.example import Example

LONGEST = 96


@pytest.fixture(autouse=True, scope="module")
def one_thread() -> Iterator[None]:
    """Models this small are run faster by one."""
    before = torch.get_num_threads()
    torch.set_num_threads(1)
    yield
    torch.set_num_threads(before)


def example(*lengths: int, rng: np.random.Generator, ends: bool = False) -> Example:
    """Documents of these lengths, every token a position. ends: as encoders' tokenizers have it, <s> … </s>."""
    tokens = rng.integers(3, V, sum(lengths))
    if ends:
        tokens[0], tokens[-1] = 0, 2
    return Example(tokens, np.arange(len(tokens)), np.zeros(len(tokens), np.int64), np.array(lengths))


def examples_of(*rows: tuple[int, ...], seed: int = 0, ends: bool = False) -> list[Example]:
    rng = np.random.default_rng(seed)
    return [example(*row, rng=rng, ends=ends) for row in rows]


def find(model: Any, examples: Sequence[Example], **changes: Any) -> Findings:
    attention = changes.pop("attention", "document")
    settings: dict[str, Any] = {"longest": LONGEST, "batch_examples": 8, "packed": attention == "document"} | changes
    return find_feeding(model, Feeding.of(model, attention), examples, **settings)


@torch.no_grad()
def run(model: Any, feeding: Feeding, examples: Sequence[Example]) -> torch.Tensor:
    parts = []
    uncached = {} if model.get_output_embeddings() is None else {"use_cache": False}
    for inputs, flat_P in feeding.passes(examples):
        logits = model(**inputs.arguments, **uncached).logits
        length = inputs.arguments["input_ids"].shape[1]
        parts.append(logits[flat_P // length] if logits.ndim == 2 else logits.flatten(0, 1)[flat_P])
    return torch.cat(parts).log_softmax(-1)


@torch.no_grad()
def alone(model: Any, examples: Sequence[Example], attention: str = "document") -> torch.Tensor:
    """Each document, or each encoder's example, as a user of transformers runs it."""
    parts = []
    for each in examples:
        pieces = np.split(each.tokens, np.cumsum(each.documents)[:-1]) if attention == "document" else [each.tokens]
        for piece in pieces:
            logits = model(input_ids=torch.from_numpy(piece)[None]).logits
            parts.append(logits.expand(len(piece), -1) if logits.ndim == 2 else logits[0])
    return torch.cat(parts).log_softmax(-1)


WINDOWS = examples_of((50, 11, 35), (96,), (7, 40), (20,))
OTHERS = examples_of((33, 33, 30), (60, 36), (5, 9), (41,), seed=1)
TEXTS = examples_of((30,), (64,), (17,), (9,), ends=True)
OTHER_TEXTS = examples_of((96,), (11,), (40,), (40,), (7,), seed=1, ends=True)


@pytest.mark.parametrize("name", CAUSAL)
def test_packed_documents_in_batches_get_the_logits_they_have_alone(name: str) -> None:
    settings, verdict = CAUSAL[name]
    model = model_of(transformers.AutoModelForCausalLM, name, settings)
    if verdict not in ("right", "apart", "apart equal"):
        with pytest.raises(KdcacheError, match=verdict):
            find(model, WINDOWS)
        return
    found = find(model, WINDOWS)
    assert [found.packing is not None, found.batch is not None] == ["apart" in verdict, "equal" in verdict]
    expected = alone(model, OTHERS)
    assert (run(model, found.feeding, OTHERS) - expected).abs().max() < 1e-4
    if verdict != "right":
        try:
            packed = run(model, Feeding.of(model, "document"), OTHERS)
        except TypeError:  # takes no position ids
            return
        assert (packed - expected).abs().max() > 1e-2


@pytest.mark.parametrize(
    ("name", "attention"),
    [
        *((name, "document") for name, (_, verdict) in CAUSAL.items() if verdict.startswith("apart")),
        *((name, "causal") for name in ("opt", "mamba", "phi3 longrope")),
    ],
)
def test_where_nothing_is_packed_all_but_longrope_run_in_batches(name: str, attention: str) -> None:
    """OPT, Bloom, Mamba and the hybrids are fed no position ids, and nothing is asked of them."""
    settings, verdict = CAUSAL[name]
    model = model_of(transformers.AutoModelForCausalLM, name, settings)
    single = examples_of((96,), (20,), (41,), (41,), (7,))
    found = find(model, single, attention=attention, packed=False)
    assert found.packing is None
    assert (found.batch is not None) == ("equal" in verdict)
    assert (run(model, found.feeding, single) - alone(model, single)).abs().max() < 1e-4


@pytest.mark.parametrize(("size", "seed"), [(0.02, 0), (0.02, 1), (0.02, 2), (0.2, 1)])
def test_a_short_convolution_is_found_whatever_the_weights(size: float, seed: int) -> None:
    settings = CAUSAL["lfm2"][0] | {"initializer_range": size}
    assert find(model_of(transformers.AutoModelForCausalLM, "lfm2", settings, seed=seed), WINDOWS).packing is not None
    llama = model_of(transformers.AutoModelForCausalLM, "llama", LLAMA | {"initializer_range": size}, seed=seed)
    assert find(llama, WINDOWS) == Findings(Feeding.of(llama, "document"))


@pytest.mark.parametrize(
    ("name", "dtype"),
    [
        *((name, torch.bfloat16) for name in ("llama", "gpt2", "mixtral", "lfm2", "mamba", "phi3 longrope")),
        ("llama", torch.float16),
    ],
)
def test_rounding_of_half_precision_is_no_leak(name: str, dtype: torch.dtype) -> None:
    settings, verdict = CAUSAL[name]
    model = model_of(transformers.AutoModelForCausalLM, name, settings).to(dtype)
    found = find(model, WINDOWS)
    assert [found.packing is not None, found.batch is not None] == ["apart" in verdict, "equal" in verdict]


@pytest.mark.parametrize(
    ("task", "name"), [*(("sequence", name) for name in SEQUENCE), *(("token", name) for name in TAGS)]
)
def test_classifiers_in_padded_batches_give_what_they_give_alone(task: str, name: str) -> None:
    register_small_models()
    settings, verdict = (SEQUENCE if task == "sequence" else TAGS)[name]
    auto_class = getattr(transformers, f"AutoModelFor{task.title()}Classification")
    model = model_of(auto_class, name, settings, num_labels=5)
    if verdict not in ("right", "equal"):
        with pytest.raises(KdcacheError, match=verdict):
            find(model, TEXTS, attention="full")
        return
    found = find(model, TEXTS, attention="full")
    assert found.feeding.together == ("any" if verdict == "right" else "equal")
    plain = Feeding.of(model, "full")
    expected = torch.cat([run(model, plain, [each]) for each in OTHER_TEXTS])
    assert (run(model, found.feeding, OTHER_TEXTS) - expected).abs().max() < 1e-3
    if verdict != "right":
        assert (run(model, plain, OTHER_TEXTS) - expected).abs().max() > 1e-2


def test_nothing_is_run_where_nothing_can_differ() -> None:
    found = find_feeding(None, Feeding("document"), WINDOWS, longest=96, batch_examples=1, packed=False)
    assert found == Findings(Feeding("document"))
    assert find_feeding(None, Feeding("full"), [], longest=96, batch_examples=8, packed=False).batch is None


def test_a_model_keeps_its_mode_and_can_be_trained_afterwards() -> None:
    model = model_of(transformers.AutoModelForCausalLM, "phi3 longrope", CAUSAL["phi3 longrope"][0]).train()
    model.model.layers[0].eval()
    find(model, WINDOWS)
    assert model.training
    assert not model.model.layers[0].training
    model(input_ids=torch.arange(3, 50)[None]).logits.sum().backward()


def test_logits_that_are_no_numbers_are_left_to_the_dump() -> None:
    model = model_of(transformers.AutoModelForCausalLM, "llama", LLAMA)
    with torch.no_grad():
        model.model.embed_tokens.weight[WINDOWS[1].tokens[4]] = torch.nan
    assert find(model, WINDOWS).batch is None


def test_what_may_be_packed() -> None:
    single, packed = examples_of((5,)), examples_of((3, 2))
    assert may_be_packed({"attention": "document", "packing": "windows"}, single)
    assert not may_be_packed({"attention": "causal", "packing": "windows"}, packed)
    assert not may_be_packed({"attention": "document", "packing": "documents"}, single)
    assert may_be_packed({}, packed)
    assert not may_be_packed({}, single)
    assert not may_be_packed({"name": "token_classification"}, packed)


def test_probes_are_the_runs_own_tokens_of_unequal_lengths() -> None:
    probes = make_probes(TEXTS, longest=80, rows=8, packed=False, attention="full")
    assert [len(row.tokens) for row in probes.rows] == [51, 80, 11]
    for row in probes.rows:
        assert row.tokens[0] == 0
        assert row.tokens[-1] == 2
        assert not np.isin(row.tokens[1:-1], [0, 2]).any()
        assert set(row.tokens) <= {token for text in TEXTS for token in text.tokens}
    packed = make_probes(WINDOWS, longest=80, rows=8, packed=True, attention="document")
    assert packed.rows[0].documents.tolist() == [51, 11, 18]
    assert packed.counts == [32, 11, 18, 32, 11]
    assert len(make_probes(WINDOWS, longest=80, rows=1, packed=True, attention="document").rows) == 1
    special = np.array([0, 2])
    assert resized(TEXTS[0], 4, special).tokens.tolist() == [0, *TEXTS[0].tokens[1:3], 2]
    assert len(resized(TEXTS[0], 1, special).tokens) == 3


@pytest.mark.parametrize("together", ["any", "equal", "one"])
def test_passes_keep_the_order_of_positions_and_the_room_of_the_batch(together: Any) -> None:
    feeding = Feeding("document", together=together, apart=True)
    room = len(OTHERS) * 96
    tokens = []
    for inputs, flat_P in feeding.passes(OTHERS):
        ids = inputs.arguments["input_ids"]
        assert "position_ids" not in inputs.arguments
        assert ids.numel() <= room
        assert together != "one" or len(ids) == 1
        tokens += ids.flatten()[flat_P].tolist()
    assert tokens == np.concatenate([each.tokens for each in OTHERS]).tolist()


def test_token_types_are_no_neighbours() -> None:
    """A pair's second text is of another type, alone as in a batch."""
    model = model_of(transformers.AutoModelForSequenceClassification, "bert", SEQUENCE["bert"][0])
    pairs = [replace(text, types=(np.arange(len(text.tokens)) > 4).astype(np.int64)) for text in TEXTS]
    feeding = Feeding.of(model, "full", types=True)
    assert find_feeding(model, feeding, pairs, longest=64, batch_examples=8, packed=False) == Findings(feeding)
