from typing import Any

import pyarrow as pa
import pytest
from classes import DECLARED, TOKENIZERS, word_piece

from kdcache.config import CorpusConfig, SequenceClassificationConfig
from kdcache.errors import CorpusError
from kdcache.targets.fields import NO_LABEL
from kdcache.tasks.labels import Labels
from kdcache.tasks.sequence_classification import SequenceClassification


def where(row: int) -> str:
    return f"rows.jsonl:{row + 1}"


def make(max_length: int = 16, tokenizer: Any = None, **corpus: Any) -> SequenceClassification:
    columns = CorpusConfig(paths=("x",), format="jsonl", **{"label_field": "label", **corpus})
    config = SequenceClassificationConfig(name="sequence_classification", max_length=max_length)
    return SequenceClassification(config, tokenizer or word_piece(), columns, Labels(["bright", "dark"]))


def test_an_example_is_what_the_tokenizer_makes_of_a_text() -> None:
    table = pa.table({"text": ["sunny cache", "ash", ""], "label": ["bright", None, "dark"]})
    examples, notes = make().examples(table, where)
    expected = word_piece()(["sunny cache", "ash", ""])["input_ids"]
    assert [example.tokens.tolist() for example in examples] == expected
    assert [example.labels.tolist() for example in examples] == [[0], [NO_LABEL], [1]]
    assert all(example.positions.tolist() == [0] for example in examples)
    assert notes == {"unlabelled": 1, "labelled bright": 1, "labelled dark": 1}


def test_a_long_pair_is_cut_and_counted() -> None:
    table = pa.table({"text": ["sunny cache", "ash"], "pair": ["cold", "warm " * 40], "label": ["dark", "dark"]})
    examples, notes = make(text_pair_field="pair").examples(table, where)
    encoded = word_piece()(["sunny cache"], ["cold"])
    assert examples[0].tokens.tolist() == encoded["input_ids"][0]
    assert [len(example.tokens) for example in examples[1:]] == [16]
    assert notes["truncated"] == 1


@pytest.mark.parametrize("name", [*TOKENIZERS, "word_piece_declared", "xlnet"])
def test_token_types_are_those_that_a_user_of_the_tokenizer_gets(name: str) -> None:
    """A generic tokenizer declares none, though its post-processor makes some; XLNet's [CLS] is of type 2."""
    tokenizer = DECLARED[name]() if name in DECLARED else TOKENIZERS[name]()
    table = pa.table({"text": ["sunny cache"], "pair": ["cold"], "label": ["dark"]})
    for fields in ({}, {"text_pair_field": "pair"}):
        (example,), _ = make(64, tokenizer, **fields).examples(table, where)
        expected = tokenizer("sunny cache", *(["cold"] if fields else []))
        assert example.tokens.tolist() == expected["input_ids"]
        types = expected.get("token_type_ids")
        assert (None if example.types is None else example.types.tolist()) == types
    assert (types is not None) == (name in ("characters", *DECLARED))
    assert types is None or max(types) == (2 if name == "xlnet" else 1)


def test_labels_and_texts_that_cannot_be_used() -> None:
    with pytest.raises(CorpusError, match=r"rows.jsonl:2: got label grey, expected one of bright, dark"):
        make().examples(pa.table({"text": ["a", "b"], "label": ["dark", "grey"]}), where)
    with pytest.raises(CorpusError, match=r"rows.jsonl:2: text is null"):
        make().examples(pa.table({"text": ["a", None], "label": ["dark", "dark"]}), where)


def test_a_text_of_no_tokens_is_named(gpt_tokenizer: Any) -> None:
    columns = CorpusConfig(paths=("x",), format="jsonl")
    config = SequenceClassificationConfig(name="sequence_classification", max_length=16)
    task = SequenceClassification(config, gpt_tokenizer, columns, Labels(["bright", "dark"]))
    with pytest.raises(CorpusError, match=r"rows.jsonl:2: the tokenizer makes no token of the text"):
        task.examples(pa.table({"text": ["a", ""]}), where)
