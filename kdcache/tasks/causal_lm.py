"""Causal language modelling: a record is the teacher's distribution of the next token.

Documents: every token of a text is learnable. Each is ended by the end-of-text token, where the tokenizer has not put
one and the config does not leave it out: a student that never saw it cannot stop. A document that is cut short has
none. Chats: the assistant's tokens; a turn ends as the template says.
"""

from collections import Counter
from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Self

import numpy as np
import pyarrow as pa

from kdcache.corpus import Column
from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import ConfigError, RowError
from kdcache.tasks.chat import Chats
from kdcache.tasks.example import Example
from kdcache.tasks.packing import Document, one_each, windows
from kdcache.tasks.settings import CausalLMConfig
from kdcache.tasks.task import Where, strings
from kdcache.tasks.tokenizer import vocabulary_size

__all__ = ["CausalLM"]


class CausalLM:
    """The task `causal_lm`. Give messages_field for chats, text_field for text; a tokenizer of transformers.

    Notes that `examples` may count: "empty" texts, documents "truncated" or "dropped" for their length, examples
    left out as "unsupervised" because they have no position, and of chats "split_chats" that became several documents
    and messages with "thoughts_left_out" by the template.
    """

    labels = None
    Settings: ClassVar = CausalLMConfig
    remedies: ClassVar[Mapping[str, tuple[str, ...]]] = {"overlong": ("truncated", "dropped")}

    def __init__(
        self, config: CausalLMConfig, tokenizer: Any, text_field: str = "text", messages_field: str | None = None
    ) -> None:
        self._config = config
        self._tokenizer = tokenizer
        if config.num_classes is not None and config.num_classes > (most := vocabulary_size(tokenizer)):
            raise ConfigError(f"got task.num_classes {config.num_classes}, expected at most the tokenizer's {most} ids")
        self._text_field = text_field
        self._chats = None
        self._end = None
        if messages_field is not None:
            self._chats = Chats(tokenizer, messages_field, config.loss_on, config.turns, config.date)
        elif config.end_of_text:
            self._end = tokenizer.eos_token_id
            if self._end is None:
                raise ConfigError(
                    "got a tokenizer without an end-of-text token, which is put after each document; set its "
                    "eos_token, or task.end_of_text: false"
                )

    @staticmethod
    def columns(config: CausalLMConfig, corpus: CorpusConfig) -> tuple[Column, ...]:
        if corpus.messages_field is None:
            return (Column(corpus.text_field, "text_field"),)
        return (Column(corpus.messages_field, "messages_field", kind="json"),)

    @staticmethod
    def texts(table: pa.Table, corpus: CorpusConfig) -> Iterator[str]:
        return (text for text in table[corpus.messages_field or corpus.text_field].to_pylist() if text)

    @staticmethod
    def label_names(table: pa.Table, corpus: CorpusConfig) -> list[str | None]:
        return []

    @classmethod
    def from_config(cls, config: CausalLMConfig, tokenizer: Any, corpus: CorpusConfig, labels: None) -> Self:
        return cls(config, tokenizer, corpus.text_field, corpus.messages_field)

    def check(self, table: pa.Table, where: Where) -> int:
        return 0

    def examples(self, table: pa.Table, where: Where) -> tuple[list[Example], dict[str, int]]:
        notes: Counter[str] = Counter()
        if self._chats is None:
            by_row = [[document] for document in self._texts(table, where)]
        else:
            by_row, notes = self._chats.by_row(table, where)
        self._check_classes(by_row, where)
        if self._config.packing == "windows":
            documents = [document for documents in by_row for document in documents]
            kept = [document for document in documents if len(document[0])]
            notes["empty"] = len(documents) - len(kept)
            examples, left_out = windows(kept, self._config.sequence_length, self._config.attention)
        else:
            examples, left_out = one_each(self._fitting(by_row, notes, where))
        notes["unsupervised"] = left_out
        return examples, {name: count for name, count in notes.items() if count}

    def _texts(self, table: pa.Table, where: Where) -> list[Document]:
        """A document of no tokens stands for a text of none."""
        texts = strings(table[self._text_field], self._text_field, where)
        full = [text for text in texts if text]
        found = iter(self._tokenizer(full, return_attention_mask=False, verbose=False)["input_ids"] if full else [])
        return [_learnable(self._ended(next(found)) if text else []) for text in texts]

    def _check_classes(self, by_row: list[list[Document]], where: Where) -> None:
        """Raises RowError for a row with a token that the teacher has no row of logits for."""
        limit = self._config.num_classes
        if limit is None:
            return
        for row, documents in enumerate(by_row):
            highest = max((int(tokens.max(initial=0)) for tokens, _ in documents), default=0)
            if highest >= limit:
                token = self._tokenizer.convert_ids_to_tokens(highest)
                raise RowError(
                    where,
                    row,
                    f" has the token {token} ({highest}), expected ids below task.num_classes {limit}: the "
                    "teacher knows no other; leave such rows out",
                )

    def _ended(self, ids: list[int]) -> list[int]:
        return ids if self._end is None or ids[-1:] in ([], [self._end]) else [*ids, self._end]

    def _fitting(self, by_row: list[list[Document]], notes: Counter[str], where: Where) -> list[Document]:
        """Documents of at most sequence_length tokens, as `overlong` says."""
        length, overlong = self._config.sequence_length, self._config.overlong
        kept = []
        documents = [(row, *document) for row, documents in enumerate(by_row) for document in documents]
        for row, tokens, learnable in documents:
            if not len(tokens):
                notes["empty"] += 1
            elif len(tokens) <= length:
                kept.append((tokens, learnable))
            elif overlong == "error":
                ended = "" if self._end is None else " with its end of text"
                raise RowError(
                    where,
                    row,
                    f" has {len(tokens)} tokens{ended}, expected at most task.sequence_length {length}; set "
                    "task.overlong: truncate or drop, or task.packing: windows",
                    settings=["task.overlong: truncate or drop", "task.packing: windows"],
                )
            elif overlong == "truncate":
                notes["truncated"] += 1
                kept.append((tokens[:length], learnable[:length]))
            else:
                notes["dropped"] += 1
        return kept


def _learnable(ids: list[int]) -> Document:
    return np.asarray(ids, np.int64), np.ones(len(ids), bool)
