"""Chats -> tokens, and which of them are the assistant's.

A conversation is rendered by the tokenizer's chat template (template.py), and turns.py says which characters of the
text are supervised. The text is tokenised once and spans of characters are carried over to tokens by their offsets, so
that merges across a border do no harm. A token is the assistant's if it starts inside the span; white space that
follows the end-of-turn mark is not.
"""

from collections import Counter
from collections.abc import Callable
from datetime import date
from typing import TYPE_CHECKING, Any, Literal

import numpy as np

from kdcache.errors import ConfigError
from kdcache.tasks.messages import Messages, read_messages
from kdcache.tasks.packing import Document
from kdcache.tasks.task import Where
from kdcache.tasks.template import ChatTemplate, Span
from kdcache.tasks.turns import Supervised, Turns, supervised_texts, thoughts_left_out

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["Chats"]


class Chats:
    """Conversations of one column, rendered by the tokenizer's chat template.

    turns: which of the assistant's turns are supervised, and in how many examples. day: today, for the template.
    change: what a conversation becomes before it is rendered.
    """

    def __init__(
        self,
        tokenizer: Any,
        field: str,
        loss_on: Literal["assistant", "all"],
        turns: Turns = "all",
        day: date | None = None,
        change: Callable[[Messages], Messages] = lambda messages: messages,
    ) -> None:
        if tokenizer.chat_template is None:
            raise ConfigError(
                "got corpus.messages_field and a tokenizer without a chat template; give a tokenizer that has one, "
                "or render the chats to text and use corpus.text_field"
            )
        if loss_on == "assistant" and not tokenizer.is_fast:
            raise ConfigError(
                f"got {type(tokenizer).__name__}, which does not tell where in the text its tokens are, expected a "
                "tokenizer with tokenizer.json; or set task.loss_on: all"
            )
        self._tokenizer = tokenizer
        self._template = ChatTemplate(tokenizer, day)
        self._field, self._change = field, change
        self._all = loss_on == "all"
        self._turns = turns
        self._special = np.array(sorted({*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}), np.int64)

    def documents(self, table: "pa.Table", where: Where) -> list[Document]:
        """Tokens of each conversation; learnable where the assistant speaks. The template ends a turn itself."""
        return [document for documents in self.by_row(table, where)[0] for document in documents]

    def by_row(self, table: "pa.Table", where: Where) -> tuple[list[list[Document]], Counter[str]]:
        """The documents of each row, one or several, and counts: "split_chats", rows of several documents, and
        "thoughts_left_out", messages whose thinking the template leaves out."""
        texts: list[str] = []
        spans: list[list[Span]] = []
        lengths = []
        notes: Counter[str] = Counter()
        for row, value in enumerate(table[self._field].to_pylist()):
            messages = self._change(read_messages(value, self._field, row, where))
            messages = self._template.settle(messages, row, where)
            found: list[Supervised]
            if self._all:
                found = [(self._template.render(messages, row, where), [])]
            else:
                found = supervised_texts(self._template, messages, self._turns, row, where)
            lengths.append(len(found))
            texts += [text for text, _ in found]
            spans += [turns for _, turns in found]
            notes["split_chats"] += len(found) > 1
            notes["thoughts_left_out"] += thoughts_left_out(messages, found) if self._turns != "last" else 0
        documents = iter(self._tokenized(texts, spans))
        return [[next(documents) for _ in range(length)] for length in lengths], notes

    def _tokenized(self, texts: list[str], spans: list[list[Span]]) -> list[Document]:
        encoded = self._tokenizer(
            texts,
            add_special_tokens=False,
            return_attention_mask=False,
            return_offsets_mapping=not self._all,
            verbose=False,
        )
        ids = [np.asarray(found, np.int64) for found in encoded["input_ids"]]
        if self._all:
            return [(tokens, np.ones(len(tokens), bool)) for tokens in ids]
        offsets = encoded["offset_mapping"]
        return [
            (tokens, self._mask(tokens, np.asarray(offset, np.int64).reshape(-1, 2), text, turns))
            for tokens, offset, text, turns in zip(ids, offsets, texts, spans, strict=True)
        ]

    def _mask(self, tokens: np.ndarray, offsets: np.ndarray, text: str, spans: list[Span]) -> np.ndarray:
        mask = np.zeros(len(tokens), bool)
        special = np.isin(tokens, self._special)
        for start, stop in spans:
            inside = np.flatnonzero((offsets[:, 0] >= start) & (offsets[:, 0] < stop))
            marks = inside[special[inside]]
            if len(marks) and text[offsets[marks[-1], 1] : stop].isspace():
                inside = inside[inside <= marks[-1]]
            mask[inside] = True
        return mask
