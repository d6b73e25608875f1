"""Texts: what the tasks have in common that ask one thing of a whole text or pair of texts.

The position is the first token, [CLS] in BERT's models; a model's head gives one row per example whatever it pools.
Token types are those that `tokenizer(text, pair)` gives: the second text of a pair is of type 1 where the tokenizer
declares and makes it so.
"""

from abc import abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from kdcache.config.base import Config
from kdcache.corpus.column import Column
from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import ConfigError, RowError
from kdcache.tasks.example import Example
from kdcache.tasks.measures import Usage
from kdcache.tasks.task import Reader, Task, Where, strings
from kdcache.tasks.windows import Surroundings, window_starts

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TextReader", "TextSettings", "TextTask"]


class TextSettings(Config):
    """How a text becomes an example.

    max_length: the most tokens of an example; longer texts are cut, and counted in the summary.
    overlong: what is read of a longer text: its "head", its "tail", or "middle_out" (its first and its last half). By
        default the tokenizer's truncation side decides, which is the head for most. Pairs have no middle_out.
    attention: every token of an example sees every other.
    """

    max_length: Annotated[int, Field(ge=3, le=2**24)] = 256
    overlong: Literal["head", "tail", "middle_out"] | None = None
    attention: Literal["full"] = "full"


class TextTask(Task):
    """A task with one position for each text or pair of texts. label_kind: of the column corpus.label_field."""

    auto_class = "AutoModelForSequenceClassification"
    pipeline = "text-classification"
    one_position = True
    label_setting = "label_field"
    label_kind: ClassVar[Literal["label", "labels", "numbers"]] = "label"
    pipeline_arguments: ClassVar[str] = ""

    def check_corpus(self, corpus: CorpusConfig) -> None:
        overlong = self.settings.overlong
        if corpus.text_pair_field is not None and overlong in ("middle_out", "windows"):
            raise ValueError(f"got task.overlong {overlong} for pairs (corpus.text_pair_field), expected head or tail")

    def columns(self, corpus: CorpusConfig) -> tuple[Column, ...]:
        columns = [Column(corpus.text_field, "text_field")]
        if corpus.text_pair_field is not None:
            columns.append(Column(corpus.text_pair_field, "text_pair_field"))
        if corpus.label_field is not None:
            columns.append(Column(corpus.label_field, "label_field", required=False, kind=self.label_kind))
        return tuple(columns)

    def texts(self, table: "pa.Table", corpus: CorpusConfig) -> Iterator[str]:
        fields = [corpus.text_field, *([corpus.text_pair_field] if corpus.text_pair_field else [])]
        return (text for field in fields for text in table[field].to_pylist() if text)

    def usage(self, longest: int | None) -> Usage:
        notes = [f"Texts longer than {longest} tokens are cut."] if longest else []
        if self.settings.overlong == "middle_out":
            notes.append("In training their middle was cut out, here their end is: cut them yourself, or use kdcache.")
        if self.settings.overlong == "windows":
            room = f"windows of {longest} tokens that overlap by a quarter"
            notes.append(f"In training they were {room}: for the same scores take the mean of theirs.")
        return Usage('model("a text")', f", truncation=True{self.pipeline_arguments}", tuple(notes))


class TextReader(Reader):
    """Texts or pairs of texts -> one example each, or overlapping windows. A subclass reads the labels.

    Notes: texts "truncated" or "windowed" for their length, and what `counts` says of labels.
    """

    def __init__(self, settings: Any, tokenizer: Any, corpus: CorpusConfig) -> None:
        self._config, self._tokenizer = settings, tokenizer
        self._text, self._pair, self._label = corpus.text_field, corpus.text_pair_field, corpus.label_field

    @abstractmethod
    def row_labels(self, values: Sequence[Any], where: Where) -> list[Any]:
        """The label of each row as it is stored, for one position.

        Args:
            values: What the column of labels has; None for a row without a label.
            where: Row -> place, for messages.

        Raises:
            RowError: A label cannot be used.
        """

    @abstractmethod
    def counts(self, labels: Sequence[Any]) -> dict[str, int]:
        """Notes on the labels of these examples, "unlabelled" among them."""

    def check(self, table: "pa.Table", where: Where) -> int:
        labels = self._labels(table, where)
        return len(labels) - self.counts(labels).get("unlabelled", 0)

    def _labels(self, table: "pa.Table", where: Where) -> list[Any]:
        values = [None] * len(table) if self._label is None else table[self._label].to_pylist()
        return self.row_labels(values, where)

    def examples(self, table: "pa.Table", where: Where) -> tuple[list[Example], dict[str, int]]:
        texts = [strings(table[self._text], self._text, where)]
        if self._pair is not None:
            texts.append(strings(table[self._pair], self._pair, where))
        labels = self._labels(table, where)
        notes = {"truncated": 0, "windowed": 0}
        examples: list[Example] = []
        for row, (windows, length) in enumerate(self._encode(texts)):
            if not length:
                raise RowError(where, row, ": the tokenizer makes no token of the text; leave such rows out")
            if len(windows[0].tokens) > self._config.max_length:
                raise ConfigError(
                    f"got task.max_length {self._config.max_length}, expected at least {len(windows[0].tokens)}: the "
                    "special tokens alone take so many"
                )
            notes["windowed" if len(windows) > 1 else "truncated"] += length > len(windows[0].tokens)
            for number, window in enumerate(windows):
                examples.append(
                    Example(
                        window.tokens,
                        np.zeros(1, np.int64),
                        np.array([labels[row]]),
                        np.array([len(window.tokens)]),
                        continues=number > 0,
                        types=window.types,
                    )
                )
        counts = notes | self.counts([example.labels[0] for example in examples])
        return examples, {name: count for name, count in counts.items() if count}

    def _encode(self, texts: list[list[str]]) -> Iterator[tuple[list["_Window"], int]]:
        """(what is read of each row, how many tokens the whole row has), row by row."""
        overlong = self._config.overlong
        whole = self._call(texts)
        if overlong in ("middle_out", "windows"):
            surroundings = Surroundings.of(self._tokenizer)
            for tokens, types in whole:
                yield self._shortened(tokens, types, surroundings), len(tokens)
            return
        own_side = self._tokenizer.truncation_side
        try:
            self._tokenizer.truncation_side = {"head": "right", "tail": "left", None: own_side}[overlong]
            cut = [*self._call(texts, truncation="longest_first", max_length=self._config.max_length)]
        finally:
            self._tokenizer.truncation_side = own_side
        for read, (tokens, _) in zip(cut, whole, strict=True):
            yield [_Window(*read)], len(tokens)

    def _call(self, texts: list[list[str]], **settings: Any) -> Iterator[tuple[np.ndarray, np.ndarray | None]]:
        """(tokens, token types where the tokenizer declares them) of each row."""
        encoded = self._tokenizer(*texts, return_attention_mask=False, verbose=False, **settings)
        types = encoded.get("token_type_ids") or [None] * len(encoded["input_ids"])
        for row, its_types in zip(encoded["input_ids"], types, strict=True):
            yield np.asarray(row, np.int64), None if its_types is None else np.asarray(its_types, np.int64)

    def _shortened(self, tokens: np.ndarray, types: np.ndarray | None, special: Surroundings) -> list["_Window"]:
        """The middle left out of a long text, or its windows."""
        room = self._config.max_length - len(special)
        if room < 2:
            raise ConfigError(
                f"got task.max_length {self._config.max_length}, expected room for text beside {len(special)} special "
                "tokens"
            )
        if len(tokens) <= self._config.max_length:
            return [_Window(tokens, types)]
        body = tokens[len(special.prefix) : len(tokens) - len(special.suffix)]
        if self._config.overlong == "middle_out":
            bodies = [np.concatenate([body[: room - room // 2], body[len(body) - room // 2 :]])]
        else:
            bodies = [body[start : start + room] for start in window_starts(len(body), room)]
        return [_Window(special.around(part), special.types_around(len(part))) for part in bodies]


@dataclass(frozen=True)
class _Window:
    """tokens, types: int64 [L], types None where the tokenizer gives none."""

    tokens: np.ndarray
    types: np.ndarray | None
