"""Chats -> tokens, and which of them are the assistant's.

A chat template says nowhere which characters are the assistant's: most have no generation marks, and transformers
then gives a mask of zeros with only a warning. So growing prefixes of the conversation are rendered: an assistant's
turn is what lies between the rendering of all before it, with the generation prompt, and that of all up to it. Each
prefix has to be a prefix of the whole, as a string; the whole is tokenised once and spans of characters are carried
over to tokens by their offsets, so that merges across a border do no harm. A token is the assistant's if it starts
inside the span; white space that follows the end-of-turn mark is not. Two renderings a turn, about 0.1 ms each.
"""

import json
from typing import Any, Literal

import numpy as np
import pyarrow as pa
from jinja2 import TemplateError

from kdcache.errors import ConfigError, CorpusError
from kdcache.tasks.packing import Document
from kdcache.tasks.task import Where

__all__ = ["Chats"]

Messages = list[dict[str, Any]]
Span = tuple[int, int]


class Chats:
    """Conversations of one column, rendered by the tokenizer's chat template."""

    def __init__(self, tokenizer: Any, field: str, loss_on: Literal["assistant", "all"]) -> None:
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
        self._field = field
        self._all = loss_on == "all"
        self._special = np.array(sorted({*tokenizer.all_special_ids, *tokenizer.added_tokens_decoder}), np.int64)

    def documents(self, table: pa.Table, where: Where) -> list[Document]:
        """Tokens of each row's conversation; learnable where the assistant speaks. The template ends a turn itself."""
        texts: list[str] = []
        spans: list[list[Span]] = []
        for row, value in enumerate(table[self._field].to_pylist()):
            messages = _messages(value, self._field, row, where)
            texts.append(self._render(messages, row, where))
            spans.append([] if self._all else self._assistant(messages, texts[-1], row, where))
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

    def _render(self, messages: Messages, row: int, where: Where, prompt: bool = False) -> str:
        try:
            text: str = self._tokenizer.apply_chat_template(messages, tokenize=False, add_generation_prompt=prompt)
        except (TemplateError, TypeError, ValueError, KeyError) as error:
            words = " ".join(str(error).split())
            raise CorpusError(
                f"{where(row)}: the chat template does not take the first {len(messages)} messages: {words}"
            ) from error
        return text

    def _assistant(self, messages: Messages, whole: str, row: int, where: Where) -> list[Span]:
        """Character spans of the assistant's turns in the rendered conversation."""
        spans = []
        for turn, message in enumerate(messages):
            if message["role"] != "assistant":
                continue
            before = self._render(messages[:turn], row, where, prompt=True)
            after = self._render(messages[: turn + 1], row, where)
            if not (whole.startswith(before) and whole.startswith(after)):
                raise CorpusError(
                    f"{where(row)}: the chat template renders messages 1 to {turn + 1} differently when others follow "
                    "(it may strip the thinking of earlier turns), so the assistant's tokens cannot be told; give a "
                    "tokenizer whose template keeps earlier turns as they are, or set task.loss_on: all"
                )
            spans.append((len(before), len(after)))
        return spans

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


def _messages(value: object, field: str, row: int, where: Where) -> Messages:
    """The conversation of a row: a list of {role, content}, or the JSON text of one. Keys without a value are left
    out: a column of structs gives every message every key."""
    if isinstance(value, str):
        try:
            value = json.loads(value)
        except ValueError:
            raise _wrong(field, row, where, "text that is not JSON") from None
    if not isinstance(value, list) or not value:
        raise _wrong(field, row, where, "an empty list" if value == [] else _named(value))
    messages = []
    for number, message in enumerate(value, 1):
        if not isinstance(message, dict):
            raise _wrong(field, row, where, f"{_named(message)} as message {number}")
        kept = {key: item for key, item in message.items() if item is not None}
        if not isinstance(kept.get("role"), str) or not (
            isinstance(kept.get("content"), str | list) or "tool_calls" in kept
        ):
            raise _wrong(field, row, where, f"message {number} with {', '.join(kept) or 'nothing'}")
        messages.append(kept)
    return messages


def _named(value: object) -> str:
    return "null" if value is None else type(value).__name__


def _wrong(field: str, row: int, where: Where, got: str) -> CorpusError:
    return CorpusError(f"{where(row)}: {field} is {got}, expected a list of {{role, content}}")
