"""Sequence classification: one record an example, the teacher's distribution over the classes of a text.

The position is the first token, [CLS] in BERT's models; a model's head gives one row an example whatever it pools.
Token types are those that `tokenizer(text, pair)` gives: the second text of a pair is of type 1 where the tokenizer
declares and makes it so.
"""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from kdcache.config import CorpusConfig, SequenceClassificationConfig
from kdcache.corpus import Column
from kdcache.errors import ConfigError, RowError
from kdcache.targets.fields import NO_LABEL
from kdcache.tasks.example import Example
from kdcache.tasks.labels import Labels
from kdcache.tasks.task import Where, strings

__all__ = ["SequenceClassification"]


class SequenceClassification:
    """The task `sequence_classification`. Notes: texts "truncated", rows of each label, "unlabelled" rows."""

    remedies: ClassVar[Mapping[str, tuple[str, ...]]] = {}

    def __init__(
        self, config: SequenceClassificationConfig, tokenizer: Any, corpus: CorpusConfig, labels: Labels
    ) -> None:
        self.labels = labels
        self._config, self._tokenizer = config, tokenizer
        self._text, self._pair, self._label = corpus.text_field, corpus.text_pair_field, corpus.label_field

    @staticmethod
    def columns(config: SequenceClassificationConfig, corpus: CorpusConfig) -> tuple[Column, ...]:
        columns = [Column(corpus.text_field, "text_field")]
        if corpus.text_pair_field is not None:
            columns.append(Column(corpus.text_pair_field, "text_pair_field"))
        if corpus.label_field is not None:
            columns.append(Column(corpus.label_field, "label_field", required=False, kind="label"))
        return tuple(columns)

    @staticmethod
    def texts(table: pa.Table, corpus: CorpusConfig) -> Iterator[str]:
        fields = [corpus.text_field, *([corpus.text_pair_field] if corpus.text_pair_field else [])]
        return (text for field in fields for text in table[field].to_pylist() if text)

    @staticmethod
    def label_names(table: pa.Table, corpus: CorpusConfig) -> list[str | None]:
        return [] if corpus.label_field is None else table[corpus.label_field].to_pylist()

    @classmethod
    def from_config(
        cls, config: SequenceClassificationConfig, tokenizer: Any, corpus: CorpusConfig, labels: Labels
    ) -> Self:
        return cls(config, tokenizer, corpus, labels)

    def check(self, table: pa.Table, where: Where) -> int:
        ids = self._ids(table, where)
        return len(ids) - ids.count(NO_LABEL)

    def _ids(self, table: pa.Table, where: Where) -> list[int]:
        names = [None] * len(table) if self._label is None else table[self._label].to_pylist()
        return [self.labels.id(name, row, where) for row, name in enumerate(names)]

    def examples(self, table: pa.Table, where: Where) -> tuple[list[Example], dict[str, int]]:
        texts = [strings(table[self._text], self._text, where)]
        if self._pair is not None:
            texts.append(strings(table[self._pair], self._pair, where))
        ids = self._ids(table, where)
        encoded, truncated = self._encode(texts)
        tokens = encoded["input_ids"]
        types = encoded.get("token_type_ids") or [None] * len(tokens)
        for row, ids_of_row in enumerate(tokens):
            if not ids_of_row:
                raise RowError(where, row, ": the tokenizer makes no token of the text; leave such rows out")
            if len(ids_of_row) > self._config.max_length:
                raise ConfigError(
                    f"got task.max_length {self._config.max_length}, expected at least {len(ids_of_row)}: the special "
                    "tokens alone take so many"
                )
        examples = [
            Example(
                np.asarray(row, np.int64),
                np.zeros(1, np.int64),
                np.array([label]),
                np.array([len(row)]),
                types=None if its_types is None else np.asarray(its_types, np.int64),
            )
            for row, its_types, label in zip(tokens, types, ids, strict=True)
        ]
        notes = {"truncated": truncated, "unlabelled": ids.count(NO_LABEL), **self.labels.counts(ids)}
        return examples, {name: count for name, count in notes.items() if count}

    def _encode(self, texts: list[list[str]]) -> tuple[Any, int]:
        """(what the tokenizer makes of the rows, token types only where it declares them; how many were cut)."""
        encoded = self._tokenizer(
            *texts,
            truncation="longest_first",
            max_length=self._config.max_length,
            return_overflowing_tokens=False,
            return_attention_mask=False,
            verbose=False,
        )
        whole = self._tokenizer(*texts, return_attention_mask=False, return_token_type_ids=False, verbose=False)
        truncated = sum(
            len(cut) < len(full) for cut, full in zip(encoded["input_ids"], whole["input_ids"], strict=True)
        )
        return encoded, truncated
