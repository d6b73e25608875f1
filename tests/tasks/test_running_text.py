"""Words are tagged at the tokens that running text has, tokenizer by tokenizer."""

from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from classes import TAGS, TOKENIZERS
from readers import reader

from kdcache.tasks.labels import Labels
from kdcache.tasks.running_text import encode_rows, running_text
from kdcache.tasks.token_classification import TokenClassificationConfig

ROW = ["killed", "teacher", "ada", "byron", "don't", "U.S.", "York"]


def positions_of(tokenizer: Any, words: list[str], **task: Any) -> tuple[Any, dict[str, int]]:
    config = TokenClassificationConfig(name="token_classification", max_length=128, **task)
    made = reader(config, tokenizer, Labels(TAGS), format="conll")
    table = pa.table({"tokens": [words], "tags": [["O"] * len(words)]})
    (example,), notes = made.examples(table, str)
    return example, notes


@pytest.mark.parametrize("name", TOKENIZERS)
def test_a_row_is_the_tokens_of_its_running_text(name: str) -> None:
    """As a pipeline gives them; a word is asked for at the first token that begins in it or in the space before it."""
    tokenizer = TOKENIZERS[name]()
    example, notes = positions_of(tokenizer, ROW)
    text = " ".join(ROW)
    encoded = tokenizer(text, return_offsets_mapping=True)
    assert example.tokens.tolist() == encoded["input_ids"]
    assert "kept_apart" not in notes
    begin = 0
    for word, position in zip(ROW, example.positions, strict=True):
        start, stop = encoded["offset_mapping"][position]
        assert begin - 1 <= start <= begin
        assert stop <= begin + len(word)
        begin += len(word) + 1


@pytest.mark.parametrize("name", ["byte_level_prefix", "unigram", "word_piece", "characters"])
def test_tokenizers_that_take_split_words_give_the_same(name: str) -> None:
    tokenizer = TOKENIZERS[name]()
    words = tokenizer(ROW, is_split_into_words=True)
    example, _ = positions_of(tokenizer, ROW)
    assert example.tokens.tolist() == words["input_ids"]
    firsts = [words.word_ids().index(number) for number in range(len(ROW))]
    assert example.positions.tolist() == firsts


def test_words_within_a_text_have_their_space() -> None:
    """What byte-level BPE makes of split words never occurs in a text."""
    tokenizer = TOKENIZERS["byte_level"]()
    (row,) = encode_rows(tokenizer, [["cache", "teacher"]])
    assert tokenizer.convert_ids_to_tokens(row.ids.tolist())[row.words.tolist().index(1)] == "Ġteacher"
    assert row.ids.tolist() != tokenizer(["cache", "teacher"], is_split_into_words=True)["input_ids"]


@pytest.mark.parametrize(
    ("words", "separator", "text"),
    [
        (["Ada", "lives"], "auto", "Ada lives"),
        (["Ada", "says", "你好", "twice"], "auto", "Ada says 你好 twice"),
        (["我", "爱", "2", "北", "京"], "auto", "我爱2北京"),
        (["ผม", "รัก"], "auto", "ผมรัก"),
        (["나는", "서울"], "auto", "나는 서울"),
        (["我", "爱"], " ", "我 爱"),
        (["a", "b"], "", "ab"),
        (["a", "", "b", ""], "auto", "a b"),
        ([], "auto", ""),
    ],
)
def test_how_words_are_joined(words: list[str], separator: Any, text: str) -> None:
    found, spans = running_text(words, separator)
    assert found == text
    assert [found[begin:end] for begin, end in spans.tolist()] == words


def test_words_that_a_tokenizer_joins_are_kept_apart_and_counted() -> None:
    tokenizer = TOKENIZERS["word_piece"]()
    words = ["by", "ron", "ada"]
    assert "byron" in tokenizer.tokenize("byronada")
    example, notes = positions_of(tokenizer, words, separator="")
    assert notes["kept_apart"] == 1
    assert len(set(example.positions.tolist())) == 3
    pieces = [tokenizer(word, add_special_tokens=False)["input_ids"] for word in words]
    assert example.tokens[1:-1].tolist() == [token for piece in pieces for token in piece]


@pytest.mark.parametrize("name", TOKENIZERS)
def test_every_word_has_a_token_whatever_it_is(name: str) -> None:
    words = ["", "cache", "\u200b", "", "  rank ", "深い", "🌊", "é", "\t"]
    for separator in ("auto", " ", ""):
        example, _ = positions_of(TOKENIZERS[name](), words, separator=separator)
        assert len(example.positions) == len(words)
        assert (np.diff(example.positions) > 0).all()
