"""One text in each form in which JSON has it comes to the same tokens, positions and entries."""

import json
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st
from imports import capturing
from imports.conftest import Import

from kdcache.errors import CorpusError
from kdcache.imports.jsonl import Jsonl
from kdcache.imports.options import ImportOptions
from kdcache.imports.rows import Rules, record_arrays
from kdcache.store.batch import Batch
from kdcache.store.cache import open_cache

LOGITS = capturing.table()
OF = capturing.texts(LOGITS, 3)
PROMPT = 10


def entries(tokens: np.ndarray) -> list[tuple[list[int], list[float]]]:
    """Of tokens 1 … L − 1, the five likeliest classes."""
    ids, log_p = capturing.likeliest(capturing.log_softmax(LOGITS[tokens[:-1]]), 5)
    return [*zip(ids.tolist(), log_p.tolist(), strict=True)]


def named(one: tuple[list[int], list[float]]) -> dict[str, float]:
    return {f"token_id:{i}": p for i, p in zip(*one, strict=True)}


def listed(one: tuple[list[int], list[float]]) -> list[dict[str, Any]]:
    return [{"token": f"token_id:{i}", "logprob": p, "bytes": None} for i, p in zip(*one, strict=True)]


def objects(one: tuple[list[int], list[float]]) -> dict[str, dict[str, Any]]:
    return {str(i): {"logprob": p, "rank": r + 1} for r, (i, p) in enumerate(zip(*one, strict=True))}


def form(name: str, tokens: np.ndarray) -> dict[str, Any]:
    """A line, of the whole text, or of what follows a prompt of ten tokens."""
    said, ids = entries(tokens), tokens.tolist()
    prompt, after, generated = ids[:PROMPT], ids[PROMPT:], said[PROMPT - 1 :]
    names = [f"token_id:{i}" for i in ids]
    forms = {
        "server": {
            "id": "cmpl-1",
            "choices": [{"index": 0, "prompt_token_ids": ids, "prompt_logprobs": [None, *map(objects, said)]}],
        },
        "echo": {"choices": [{"logprobs": {"tokens": names, "top_logprobs": [None, *map(named, said)]}}]},
        "generated": {"prompt_token_ids": prompt, "token_ids": after, "logprobs": [objects(one) for one in generated]},
        "completion": {
            "prompt_token_ids": prompt,
            "choices": [{"logprobs": {"tokens": names[PROMPT:], "top_logprobs": [named(one) for one in generated]}}],
        },
        "chat": {
            "prompt_token_ids": prompt,
            "choices": [
                {
                    "logprobs": {
                        "content": [
                            {"token": names[PROMPT + r], "logprob": -1.0, "top_logprobs": listed(one)}
                            for r, one in enumerate(generated)
                        ]
                    }
                }
            ],
        },
        "axolotl": {
            "input_ids": ids,
            "target_token_ids": [*(i for i, _ in said), [0] * 5],
            "target_logprobs": [*(p for _, p in said), [-1e9] * 5],
            "target_mask": [*([1] * 5 for _ in said), [0] * 5],
        },
        "axolotl raw": {"input_ids": ids, "logprobs": [listed(one) for one in generated]},
        "axolotl pairs": {
            "input_ids": ids,
            "target_token_ids": [i for i, _ in generated],
            "logprobs": [p for _, p in generated],
        },
        "labels": {
            "input_ids": ids,
            "labels": [-100] * PROMPT + after,
            "prompt_logprobs": [None, *map(objects, said)],
        },
    }
    return forms[name]


WHOLE = ("server", "echo", "axolotl")
PART = ("generated", "completion", "chat", "axolotl raw", "axolotl pairs", "labels")


@pytest.mark.parametrize("name", [*WHOLE, *PART])
def test_a_form(name: str, importing: Import, tmp_path: Path) -> None:
    file = capturing.write_jsonl(tmp_path / "one.jsonl", [form(name, tokens) for tokens in OF])
    importing("jsonl", [file], tmp_path / "cache")
    cache = open_cache(tmp_path / "cache")
    batch: Batch = cache.read(0, len(cache))
    first = 0 if name in WHOLE else PROMPT - 1
    ids, log_p = [], []
    for i, tokens in enumerate(OF):
        assert batch.tokens(i).tolist() == tokens.tolist()
        assert batch.positions(i).tolist() == [*range(first, len(tokens) - 1)]
        ids += [one for one, _ in entries(tokens)[first:]]
        log_p += [one for _, one in entries(tokens)[first:]]
    assert batch.targets().ids_PE.tolist() == ids
    np.testing.assert_allclose(batch.targets().log_probs(1.0), log_p, atol=2e-6)


WEIRD = [None, True, "x", [], {}, [[]], {"a": 1}, -1, 10**30, 1.5, float("inf"), [1, 2], {"5": {}}, [{}], [[1]]]


def places(value: Any, path: tuple[Any, ...] = ()) -> Iterator[tuple[Any, ...]]:
    """Of every value inside, the first ones of a list."""
    if path:
        yield path
    items = value.items() if isinstance(value, dict) else enumerate(value[:3]) if isinstance(value, list) else ()
    for key, inner in items:
        yield from places(inner, (*path, key))


@settings(max_examples=150, deadline=None)
@given(name=st.sampled_from([*WHOLE, *PART]), draw=st.data())
def test_a_value_that_cannot_be_is_refused_in_one_line(name: str, draw: st.DataObject) -> None:
    row = form(name, OF[0])
    *path, last = draw.draw(st.sampled_from([*places(row)]))
    inner = row
    for key in path:
        inner = inner[key]
    inner[last] = draw.draw(st.sampled_from(WEIRD))
    reader = Jsonl.__new__(Jsonl)
    reader.options = ImportOptions(tokenizer="")
    scalars = {key: pa.scalar(one if isinstance(one, str) else json.dumps(one)) for key, one in row.items()}
    said = "f.jsonl:1"
    try:
        for text in reader.texts(scalars, "f.jsonl:1"):
            record_arrays(text, Rules(320, 5, 1, 1e-3))
    except CorpusError as error:
        said = str(error)
    assert said.startswith("f.jsonl:1")
    assert "\n" not in said


def test_a_field_of_ones_own_name(importing: Import, tmp_path: Path) -> None:
    rows = [form("axolotl raw", tokens) for tokens in OF]
    for row in rows:
        row["llm_text_generation_vllm_logprobs"] = row.pop("logprobs")
    file = capturing.write_jsonl(tmp_path / "one.jsonl", rows)
    manifest = importing("jsonl", [file], tmp_path / "cache", logprobs_field="llm_text_generation_vllm_logprobs")
    assert manifest.totals.positions == 3 * (capturing.LENGTH - PROMPT)
