import random
from itertools import pairwise
from typing import Any

import numpy as np
import pyarrow as pa
import pytest
from classes import TAGS, tagged, word_piece
from hypothesis import given
from hypothesis import strategies as st
from readers import reader

from kdcache.errors import CorpusError
from kdcache.targets.fields import NO_LABEL
from kdcache.tasks.labels import Labels
from kdcache.tasks.token_classification import TokenClassificationConfig, WordReader, check_bio
from kdcache.tasks.windows import window_starts

TOKENIZER = word_piece()


def where(row: int) -> str:
    return f"rows.conll:{row + 1}"


def make(max_length: int = 32, **task: Any) -> WordReader:
    config = TokenClassificationConfig(name="token_classification", max_length=max_length, **task)
    return reader(config, TOKENIZER, Labels(TAGS), format="conll")


def table(rows: list[tuple[list[str], list[str] | None]]) -> pa.Table:
    words, tags = zip(*rows, strict=True)
    return pa.table({"tokens": pa.array(words, pa.list_(pa.string())), "tags": pa.array(tags, pa.list_(pa.string()))})


def test_first_sub_tokens_are_supervised() -> None:
    words, tags = ["cache", "ada", "byron", "teacher"], ["O", "B-PER", "I-PER", "O"]
    (example,), notes = make().examples(table([(words, tags)]), where)
    pieces = [TOKENIZER(word, add_special_tokens=False)["input_ids"] for word in words]
    assert max(map(len, pieces)) > 1
    assert example.tokens.tolist() == [2, *(i for piece in pieces for i in piece), 3]
    firsts = 1 + np.cumsum([0, *map(len, pieces)])[:-1]
    assert example.positions.tolist() == firsts.tolist()
    assert example.labels.tolist() == [0, 3, 4, 0]
    assert notes == {"labelled B-PER": 1, "labelled I-PER": 1, "labelled O": 2}


@given(st.integers(8, 40), st.integers(0, 10_000))
def test_every_word_is_supervised_once_however_long_the_row(max_length: int, seed: int) -> None:
    rows = tagged(3, seed, longest=60)
    examples, notes = make(max_length).examples(table(rows), where)
    labels: list[list[int]] = []
    for example in examples:
        assert len(example.tokens) <= max_length
        assert (np.diff(example.positions) > 0).all()
        if not example.continues:
            labels.append([])
        labels[-1] += example.labels.tolist()
    assert labels == [[TAGS.index(tag) for tag in tags] for _, tags in rows]
    assert notes.get("windowed", 0) == sum(
        len(TOKENIZER(words, is_split_into_words=True)["input_ids"]) > max_length for words, _ in rows
    )


def test_a_word_stands_in_the_window_that_shows_more_around_it() -> None:
    words = random.Random(0).choices(["cache", "rank", "lane"], k=50)
    examples, _ = make(max_length=18).examples(table([(words, ["O"] * 50)]), where)
    assert len(examples) > 2
    for first, second in pairwise(examples):
        before_the_edge = len(first.tokens) - 1 - first.positions[-1]
        assert before_the_edge >= 2
        assert second.positions[0] - 1 >= 1


@given(st.integers(1, 500), st.integers(2, 64))
def test_windows_cover_a_row_and_overlap(length: int, room: int) -> None:
    starts = window_starts(length, room)
    assert starts[0] == 0
    assert starts[-1] + room >= length
    assert len(starts) == 1 or starts[-2] + room < length
    assert (np.diff(starts) == room - room // 4).all()


def test_words_that_tokenize_to_nothing_are_asked_for_all_the_same() -> None:
    (example,), notes = make().examples(table([(["cache", "\u200b", "rank"], ["O", "B-LOC", "O"])]), where)
    assert example.labels.tolist() == [0, 1, 0]
    assert example.tokens[example.positions[1]] == TOKENIZER.unk_token_id
    assert notes["unreadable"] == 1


def test_rows_without_tags_or_words() -> None:
    examples, notes = make().examples(table([(["cache", "rank"], None), ([], [])]), where)
    assert [example.labels.tolist() for example in examples] == [[NO_LABEL, NO_LABEL]]
    assert notes == {"empty": 1, "unlabelled": 2}


@pytest.mark.parametrize(
    ("tags", "message"),
    [
        (["O", "PER"], "got tag PER for word 2, expected O, B-X or I-X; set task.scheme: none for .* parts of speech"),
        (["I-PER", "O"], "got tag I-PER for word 1 after O, expected B-PER or I-PER before it"),
        (["B-LOC", "I-PER"], "got tag I-PER for word 2 after B-LOC"),
        (["O"], "got 1 tags, expected 2, one for each word"),
        (["O", "B-ORG"], "got label B-ORG, expected one of O, B-LOC"),
    ],
)
def test_tags_that_cannot_be_used(tags: list[str], message: str) -> None:
    with pytest.raises(CorpusError, match=f"rows.conll:1: {message}"):
        make().examples(table([(["cache", "rank"], tags)]), where)


def test_other_schemes_are_let_through() -> None:
    check_bio(["B-X", "I-X", "I-X", "O", "B-Y"], 0, where)
    examples, _ = make(scheme="none").examples(table([(["cache", "rank"], ["I-PER", "O"])]), where)
    assert examples[0].labels.tolist() == [4, 0]
