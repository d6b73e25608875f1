"""Corpora of token ids: the ids come through as they are, the mask says what is learnt."""

import json
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from readers import reader

from kdcache.corpus import open_corpus
from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import RowError
from kdcache.tasks import task_of
from kdcache.tasks.causal_lm import CausalLMConfig
from kdcache.tasks.tokenizer import vocabulary_size

FIELDS = {"tokens_field": "ids", "loss_mask_field": "mask"}
WRITERS = ["jsonl", "csv", "parquet"]


def where(row: int) -> str:
    return f"a.jsonl:{row + 1}"


def written(path: Path, rows: list[dict[str, Any]], format: str) -> str:
    path = path.with_suffix(f".{format}")
    if format == "parquet":
        pq.write_table(pa.table({name: [row[name] for row in rows] for name in rows[0]}), path)
    elif format == "csv":
        cells = [",".join(f'"{json.dumps(value)}"' for value in row.values()) for row in rows]
        path.write_text("\n".join([",".join(rows[0]), *cells]) + "\n")
    else:
        path.write_text("".join(json.dumps(row) + "\n" for row in rows))
    return str(path)


def read(paths: str, format: str, tokenizer: Any, **fields: str) -> list[Any]:
    config = CorpusConfig(paths=paths, format=format, **(fields or FIELDS))
    task = task_of(CausalLMConfig(sequence_length=64, packing="documents"))
    corpus = open_corpus(config, task.columns(config))
    return task.reader(tokenizer, config).examples(corpus.unit(0), where)[0]


@settings(max_examples=25, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(st.data())
def test_ids_and_masks_come_through_as_they_are(tmp_path, gpt_tokenizer, data):
    size = vocabulary_size(gpt_tokenizer)
    format = data.draw(st.sampled_from(WRITERS))
    token = st.tuples(st.integers(0, size - 1), st.booleans() if format != "csv" else st.integers(0, 1))
    documents = data.draw(st.lists(st.lists(token, min_size=1, max_size=12), min_size=1, max_size=5))
    rows = [{"ids": [i for i, _ in document], "mask": [m for _, m in document]} for document in documents]
    learnt = [row for row in rows if any(row["mask"][1:])]
    examples = read(written(tmp_path / "rows", rows, format), format, gpt_tokenizer)
    assert [example.tokens.tolist() for example in examples] == [row["ids"] for row in learnt]
    for example, row in zip(examples, learnt, strict=True):
        assert example.positions.tolist() == np.flatnonzero(row["mask"][1:]).tolist()
        assert example.labels.tolist() == [row["ids"][place + 1] for place in example.positions]


def test_without_a_mask_every_token_is_learnt_and_none_is_added(tmp_path, gpt_tokenizer):
    path = written(tmp_path / "rows", [{"ids": [5, 6, 7]}], "jsonl")
    (example,) = read(path, "jsonl", gpt_tokenizer, tokens_field="ids")
    assert (example.tokens.tolist(), example.positions.tolist()) == ([5, 6, 7], [0, 1])


def test_the_same_records_as_of_the_text(gpt_tokenizer):
    texts = ["hello world", "a b c"]
    of_text = reader(CausalLMConfig(sequence_length=64, end_of_text=False), gpt_tokenizer)
    of_ids = reader(CausalLMConfig(sequence_length=64), gpt_tokenizer, tokens_field="ids")
    ids = pa.table({"ids": [gpt_tokenizer(text)["input_ids"] for text in texts]})
    expected, _ = of_text.examples(pa.table({"text": texts}), where)
    found, _ = of_ids.examples(ids, where)
    assert [e.tokens.tolist() for e in found] == [e.tokens.tolist() for e in expected]
    assert [e.documents.tolist() for e in found] == [e.documents.tolist() for e in expected]


@pytest.mark.parametrize(
    ("row", "words"),
    [
        ({"ids": [1, 10**6], "mask": [1, 1]}, "ids has the id 1000000, expected 0 to"),
        ({"ids": [1, -1], "mask": [1, 1]}, "ids has the id -1"),
        ({"ids": [1, 2], "mask": [1]}, "mask has 1 items, expected 2"),
        ({"ids": [1, 2], "mask": [0, -100]}, "mask has -100, expected 1 for a token"),
        ({"ids": [1, 2.5], "mask": [0, 1]}, "ids has a number as item 2, expected integers"),
        ({"ids": [1, None], "mask": [0, 1]}, "ids has null as item 2"),
        ({"ids": [1, 2**64], "mask": [0, 1]}, "a number of 20 digits as item 2"),
        ({"ids": "1 2", "mask": [0, 1]}, "ids is text that is not JSON"),
        ({"ids": None, "mask": [0, 1]}, "ids is null, expected a list of integers"),
        ({"ids": {"a": 1}, "mask": [0, 1]}, "ids is an object, expected a list of integers"),
        ({"ids": [1, "a"], "mask": [0, 1]}, "ids has a string as item 2"),
    ],
)
def test_a_row_that_does_not_fit_is_a_bad_row(tmp_path, gpt_tokenizer, row, words):
    good = {"ids": [1, 2], "mask": [0, 1]}
    with pytest.raises(RowError, match=r"(rows|a)\.jsonl:2") as caught:
        read(written(tmp_path / "rows", [good, row], "jsonl"), "jsonl", gpt_tokenizer)
    assert words in str(caught.value)
