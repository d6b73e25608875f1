from typing import Any

import pyarrow as pa
import pytest
from classes import DECLARED, TOKENIZERS, word_piece
from readers import reader

from kdcache.errors import ConfigError, CorpusError
from kdcache.targets.fields import NO_LABEL
from kdcache.tasks.labels import Labels
from kdcache.tasks.sequence_classification import ClassReader, SequenceClassificationConfig


def where(row: int) -> str:
    return f"rows.jsonl:{row + 1}"


def make(max_length: int = 16, tokenizer: Any = None, overlong: Any = None, **corpus: Any) -> ClassReader:
    config = SequenceClassificationConfig(name="sequence_classification", max_length=max_length, overlong=overlong)
    columns = {"label_field": "label", **corpus}
    return reader(config, tokenizer or word_piece(), Labels(["bright", "dark"]), **columns)


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
    config = SequenceClassificationConfig(name="sequence_classification", max_length=16)
    task = reader(config, gpt_tokenizer, Labels(["bright", "dark"]))
    with pytest.raises(CorpusError, match=r"rows.jsonl:2: the tokenizer makes no token of the text"):
        task.examples(pa.table({"text": ["a", ""]}), where)


LONG = "sunny cache warm lane merry rank gold unit ash cold bitter gloomy " * 2


def test_of_a_long_text_the_head_the_tail_or_both_are_read() -> None:
    table = pa.table({"text": [LONG, "ash"], "label": ["dark", "bright"]})
    whole = word_piece()(LONG)["input_ids"]
    assert len(whole) > 20
    expected = {
        "head": [*whole[:15], 3],
        "tail": [2, *whole[-15:]],
        "middle_out": [*whole[:8], *whole[-8:]],
    }
    for overlong, tokens in expected.items():
        examples, notes = make(overlong=overlong).examples(table, where)
        assert examples[0].tokens.tolist() == tokens
        assert notes["truncated"] == 1
        assert word_piece().truncation_side == "right"


@pytest.mark.parametrize("name", ["word_piece_declared", "byte_level", "characters"])
def test_windows_of_a_long_text_hold_all_of_it(name: str) -> None:
    tokenizer = (TOKENIZERS | DECLARED)[name]()
    table = pa.table({"text": ["ash", LONG, "cold"], "label": ["dark", "bright", None]})
    examples, notes = make(16, tokenizer, overlong="windows").examples(table, where)
    assert notes["windowed"] == 1
    assert [example.continues for example in examples] == [False, False, *[True] * (len(examples) - 3), False]
    assert [example.labels.tolist() for example in examples] == [[1], *[[0]] * (len(examples) - 2), [NO_LABEL]]
    body: list[int] = []
    for number, example in enumerate(examples[1:-1]):
        assert len(example.tokens) <= 16
        assert (example.types is None) == (name == "byte_level")
        body = body[: number * (14 - 14 // 4)] + example.tokens[1:-1].tolist()
    assert body == tokenizer(LONG, add_special_tokens=False)["input_ids"]


def test_lengths_without_room_for_text() -> None:
    with pytest.raises(ConfigError, match=r"got task.max_length 3, expected room for text beside 2 special tokens"):
        make(3, overlong="windows").examples(pa.table({"text": [LONG], "label": ["dark"]}), where)
