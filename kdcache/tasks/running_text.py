"""Rows of words -> the tokens of the running text that they are, and which word each token is of.

A tagger is deployed on running text, where byte-level BPE has a token for " killed" and none for "killed". So a row's
words are joined and encoded as one text, and a token's word is told by its offsets: the first word that ends behind
the token's beginning. A token of the space before a word (a lone "▁" or "Ġ") is of that word, as it is where
transformers encodes split words with add_prefix_space.

Words are joined by a space, or by nothing in rows most of whose words are of a script that is written without spaces:
Chinese, Japanese, Thai, Lao, Khmer, Burmese, Tibetan.

Where the tokenizer joins two words of a row into one token (as XLM-R does in Chinese), the second would have no token
to be asked for at: such a row's words are encoded one by one, which is not what running text gives.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np

from kdcache.errors import ConfigError, one_line

__all__ = ["RowTokens", "encode_rows", "running_text"]

Separator = Literal["auto", " ", ""]

WITHOUT_SPACES = re.compile(
    "[\u0e00-\u0eff\u0f00-\u0fff\u1000-\u109f\u1780-\u17ff\u3000-\u30ff\u3100-\u312f\u3400-\u4dbf\u4e00-\u9fff"
    "\uf900-\ufaff\uff00-\uff9f\U00020000-\U0003ffff]"
)
"""Thai and Lao, Tibetan, Burmese, Khmer; CJK punctuation and kana, Bopomofo, Han, full-width forms."""


@dataclass(frozen=True)
class RowTokens:
    """ids: int64 sub-tokens, without special tokens. words: int64, the word of each. apart: whether the words were
    encoded one by one."""

    ids: np.ndarray
    words: np.ndarray
    apart: bool = False


def running_text(words: Sequence[str], separator: Separator = "auto") -> tuple[str, np.ndarray]:
    """(the text, int64 [words, 2]: where in it each word begins and ends). Empty words add nothing."""
    if separator == "auto":
        separator = "" if 2 * sum(WITHOUT_SPACES.search(word) is not None for word in words) > len(words) else " "
    parts: list[str] = []
    spans, end = np.zeros((len(words), 2), np.int64), 0
    for number, word in enumerate(words):
        if word and parts:
            parts.append(separator)
            end += len(separator)
        parts += [word] if word else []
        spans[number] = end, end + len(word)
        end += len(word)
    return "".join(parts), spans


def encode_rows(tokenizer: Any, rows: Sequence[Sequence[str]], separator: Separator = "auto") -> list[RowTokens]:
    """The tokens of each row of words. tokenizer: a fast one. Raises ConfigError for one that cannot take single words
    where it has to."""
    texts, spans = zip(*(running_text(words, separator) for words in rows), strict=True)
    found = _encoded(tokenizer, [*texts], return_offsets_mapping=True)
    encoded = [
        _of_offsets(np.asarray(ids, np.int64), np.asarray(offsets, np.int64).reshape(-1, 2), its_spans)
        for ids, offsets, its_spans in zip(found["input_ids"], found["offset_mapping"], spans, strict=True)
    ]
    joined = [row for row, tokens in enumerate(encoded) if tokens is None]
    apart = iter(_one_by_one(tokenizer, [rows[row] for row in joined]) if joined else [])
    return [next(apart) if tokens is None else tokens for tokens in encoded]


def _of_offsets(ids: np.ndarray, offsets: np.ndarray, spans: np.ndarray) -> RowTokens | None:
    """None where a token reaches into the word after its own."""
    filled = np.flatnonzero(spans[:, 1] > spans[:, 0])
    begins, ends = spans[filled].T
    if not len(filled):
        return RowTokens(ids[:0], filled)
    words = np.minimum(np.searchsorted(ends, offsets[:, 0], side="right"), len(filled) - 1)
    next_begins = np.append(begins[1:], np.iinfo(np.int64).max)
    return None if (offsets[:, 1] > next_begins[words]).any() else RowTokens(ids, filled[words])


def _one_by_one(tokenizer: Any, rows: Sequence[Sequence[str]]) -> list[RowTokens]:
    try:
        found = _encoded(tokenizer, [[*words] for words in rows], is_split_into_words=True)
    except (AssertionError, ValueError) as error:
        words = one_line(error)
        raise ConfigError(f"the tokenizer does not take single words, expected one that does: {words}") from None
    return [
        RowTokens(np.asarray(ids, np.int64), np.asarray(found.word_ids(row), np.int64), apart=True)
        for row, ids in enumerate(found["input_ids"])
    ]


def _encoded(tokenizer: Any, texts: list[Any], **settings: Any) -> Any:
    return tokenizer(
        texts,
        add_special_tokens=False,
        return_attention_mask=False,
        return_token_type_ids=False,
        verbose=False,
        **settings,
    )
