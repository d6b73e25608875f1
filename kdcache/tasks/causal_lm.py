"""Causal language modelling: a record is the teacher's distribution of the next token.

Documents: every token of a text is learnable. Each is ended by the end-of-text token, where the tokenizer has not put
one and the config does not leave it out: a student that never saw it cannot stop. A document that is cut short has
none. Chats: the assistant's tokens; a turn ends as the template says.
"""

import datetime
import math
from collections import Counter
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal, Self

import numpy as np
from pydantic import BeforeValidator, Field, model_validator

from kdcache.config.base import Config
from kdcache.corpus.column import Column
from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import CacheError, ConfigError, RowError
from kdcache.targets.fields import Field as Stored
from kdcache.tasks.chat import Chats
from kdcache.tasks.clock import reads_clock
from kdcache.tasks.contexts import prefix_tokens
from kdcache.tasks.example import Example
from kdcache.tasks.labels import Labels
from kdcache.tasks.language_score import language_score, language_verdict
from kdcache.tasks.measures import AGREEMENT, KL, LABEL_NLL, Measure, Usage
from kdcache.tasks.metrics import Predictions
from kdcache.tasks.packing import Document, Placed, placed_each, placed_windows
from kdcache.tasks.score import Records, Score, Verdict
from kdcache.tasks.sees_more import Prefix, TeacherReader, in_front, told_apart
from kdcache.tasks.stored import as_integers, check_classes
from kdcache.tasks.task import Reader, Task, Where, strings
from kdcache.tasks.token_ids import id_columns, id_documents
from kdcache.tasks.tokenizer import vocabulary_size

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["CausalLM", "CausalLMConfig"]


def _iso_date(value: object) -> object:
    if type(value) is datetime.date or value is None:
        return value
    try:
        return datetime.date.fromisoformat(value if isinstance(value, str) else "")
    except ValueError:
        raise ValueError(f"got {value}, expected a day such as 2025-01-31") from None


Kept = tuple[tuple[int, int], Document]
"""A document, with its row and its number among those of the row."""
Day = Annotated[datetime.date, BeforeValidator(_iso_date)]


class CausalLMConfig(Config):
    """Next-token prediction on documents or chats, and how text becomes examples.

    name: the task.
    sequence_length: tokens of a window; the most tokens of a document or a chat.
    packing: "windows" joins the documents of a unit and cuts them into windows of sequence_length; "documents" makes
        one example of each document.
    attention: "document" keeps the documents in a window from seeing each other (their positions restart); "causal"
        lets a token see everything before it. It is pinned in the manifest and used for teacher and student alike.
    overlong: what to do with a document longer than sequence_length where packing is "documents".
    loss_on: supervise the assistant's words only, or every token. For chats.
    end_of_text: end each document with the tokenizer's end-of-text token, where the tokenizer has not put one: a
        student that never saw it cannot stop. Chats end as their template says, and token ids that the corpus has
        (corpus.tokens_field) are taken as they are.
    turns: which of the assistant's turns are supervised. "all" of them are, in one example if the template leaves
        earlier turns as they were said, or else (it may strip their thinking) in several examples that each end with
        their turn; "last" supervises the last turn alone; "each" makes an example of every turn whatever the template.
        For chats.
    date: the day that the template takes for today, such as 2025-01-31; by default the day on which the dump began, if
        the template asks for it. For chats.
    num_classes: how many columns of the logits are kept, by default one for each id of the tokenizer. Give fewer where
        a tokenizer has ids that its teacher has no row for (Gemma 3 1B has 262,145 ids and 262,144 rows): a text that
        contains one is a bad row.
    """

    name: Literal["causal_lm"] = "causal_lm"
    sequence_length: Annotated[int, Field(ge=2, le=2**24)] = 1024
    packing: Literal["windows", "documents"] = "windows"
    attention: Literal["document", "causal"] = "document"
    overlong: Literal["error", "truncate", "drop"] = "error"
    loss_on: Literal["assistant", "all"] = "assistant"
    end_of_text: bool = True
    turns: Literal["all", "last", "each"] = "all"
    date: Day | None = None
    num_classes: Annotated[int, Field(ge=2, le=2**31 - 1)] | None = None

    @model_validator(mode="after")
    def _turns_are_supervised(self) -> Self:
        if self.loss_on == "all" and self.turns != "all":
            raise ValueError(f"got task.turns {self.turns} with loss_on: all, expected loss_on: assistant")
        return self


class CausalLM(Task):
    """The task `causal_lm`: predict the next token of texts, chats or documents of token ids.

    They are in corpus.text_field, messages_field or tokens_field.
    """

    settings: CausalLMConfig
    name = "causal_lm"
    Settings: ClassVar = CausalLMConfig
    auto_class = "AutoModelForCausalLM"
    pipeline = "text-generation"
    generates = True
    every_class = False
    record_defaults: ClassVar[Mapping[str, Any]] = {"kind": "sampled"}
    length_setting = "sequence_length"
    remedies: ClassVar[Mapping[str, tuple[str, ...]]] = {"overlong": ("truncated", "dropped")}
    nothing_to_learn = "every example is one token long or masked; see task.loss_on and corpus.messages_field"
    measures: ClassVar[Mapping[str, Measure]] = {
        "label_nll": LABEL_NLL,
        "perplexity": Measure("perplexity", lambda value: f"{value:,.1f}"),
        "kl": KL,
        "agreement": AGREEMENT,
    }

    def settled(self, tokenizer: Any, corpus: CorpusConfig, begun: Mapping[str, Any] | None) -> Self:
        """With task.date, where a chat template asks for the day: the config's, else that of the dump that is gone on
        with, else today's (UTC)."""
        if corpus.messages_field is None or self.settings.date is not None or tokenizer.chat_template is None:
            return self
        if not reads_clock(tokenizer.get_chat_template()):
            return self
        known = (begun or {}).get("date")
        day = datetime.date.fromisoformat(known) if known else datetime.datetime.now(datetime.UTC).date()
        return type(self)(self.settings.model_copy(update={"date": day}))

    def check_corpus(self, corpus: CorpusConfig) -> None:
        if corpus.format == "conll":
            raise ValueError(f"got corpus.format conll for {self.name}, expected texts, chats or token ids")
        if corpus.tokens_field is None and corpus.loss_mask_field is not None:
            raise ValueError("got corpus.loss_mask_field without corpus.tokens_field, expected both or none")
        if corpus.tokens_field is not None and corpus.messages_field is not None:
            raise ValueError("got corpus.tokens_field and corpus.messages_field, expected one of them")

    def columns(self, corpus: CorpusConfig) -> tuple[Column, ...]:
        if corpus.tokens_field is not None:
            return id_columns(corpus)
        if corpus.messages_field is None:
            return (Column(corpus.text_field, "text_field"),)
        names = ("messages_field", "teacher_messages_field")
        given = [(setting, getattr(corpus, setting)) for setting in names]
        return tuple(Column(name, setting, kind="json") for setting, name in given if name is not None)

    def texts(self, table: "pa.Table", corpus: CorpusConfig) -> Iterator[str]:
        if corpus.tokens_field is not None:
            raise ConfigError("got tokenizer: characters for a corpus of token ids, expected the one that made them")
        return (text for text in table[corpus.messages_field or corpus.text_field].to_pylist() if text)

    def reader(self, tokenizer: Any, corpus: CorpusConfig, labels: Labels | None = None) -> "TokenReader":
        return TokenReader(self.settings, tokenizer, corpus)

    def check_view(self, corpus: CorpusConfig, prefix: Prefix | None) -> None:
        if why := told_apart(self.settings, corpus, prefix):
            raise ValueError(why)

    def view(
        self, tokenizer: Any, corpus: CorpusConfig, prefix: Prefix | None, length: Callable[[int], int]
    ) -> tuple["CausalLM", Reader] | None:
        field = corpus.teacher_messages_field
        if field is None and prefix is None:
            return None
        settings, chats, least = self.settings, None, 2 * self.settings.sequence_length
        if corpus.messages_field is not None:
            change = partial(in_front, prefix)
            named = field or corpus.messages_field
            chats = Chats(tokenizer, named, settings.loss_on, settings.turns, settings.date, change)
        elif isinstance(prefix, str):
            least = settings.sequence_length + len(prefix_tokens(tokenizer, prefix))
        longest = length(least)
        asked = settings.model_copy(update={"sequence_length": longest, "packing": "documents"})
        student = self.reader(tokenizer, corpus)
        return type(self)(asked), TeacherReader(student, tokenizer, corpus, prefix, longest, chats)

    def num_classes(self, vocab_size: int, labels: Labels | None) -> int:
        return self.settings.num_classes or vocab_size

    def label_fields(self, num_classes: int) -> tuple[Stored, ...]:
        """None: the labels are the next tokens."""
        return ()

    def end(self, length: int) -> int:
        return length - 1

    def checked_labels(
        self, labels: Any, tokens_L: np.ndarray, positions_P: np.ndarray, num_classes: int
    ) -> np.ndarray:
        labels_P: np.ndarray = tokens_L[positions_P + 1]
        if labels is not None and not np.array_equal(as_integers(labels, "labels"), labels_P):
            raise CacheError("got labels that are not tokens[positions + 1], expected the next tokens, or no labels")
        check_classes(labels_P, num_classes)
        return labels_P

    def label_faults(self, labels: np.ndarray, num_classes: int) -> Iterator[str]:
        if len(labels) and labels.max() >= num_classes:
            yield f"labels go up to {labels.max()}, expected below {num_classes}"

    def score(self, parts: Iterable[Records], num_classes: int) -> Score | None:
        return language_score(parts, num_classes)

    def verdict(self, score: Score, names: Sequence[str], num_classes: int) -> Verdict:
        return language_verdict(score, num_classes)

    def figures(
        self, means: Mapping[str, float], predictions: Predictions | None, names: Sequence[str]
    ) -> dict[str, float]:
        return {**means, "perplexity": math.exp(min(means.get("label_nll", math.nan), 700.0))}

    def teacher_figures(
        self, label_nll: float | None, predictions: Callable[[], Predictions], names: Sequence[str]
    ) -> dict[str, Any] | None:
        if label_nll is None:
            return None
        return {"label_nll": label_nll, "kl": 0.0, "agreement": 1.0, "perplexity": math.exp(label_nll)}

    def usage(self, longest: int | None) -> Usage:
        return Usage('model("Once upon a time")')


class TokenReader(Reader):
    """Documents, chats or token ids -> windows or whole documents of tokens.

    Notes that `examples` may count: "empty" texts, documents "truncated" or "dropped" for their length, examples
    left out as "unsupervised" because they have no position, and of chats "split_chats" that became several documents
    and messages with "thoughts_left_out" by the template.
    """

    def __init__(self, config: CausalLMConfig, tokenizer: Any, corpus: CorpusConfig) -> None:
        self._config = config
        self._tokenizer = tokenizer
        if config.num_classes is not None and config.num_classes > (most := vocabulary_size(tokenizer)):
            raise ConfigError(f"got task.num_classes {config.num_classes}, expected at most the tokenizer's {most} ids")
        self._corpus = corpus
        self._chats = None
        self._end = None
        if corpus.messages_field is not None:
            self._chats = Chats(tokenizer, corpus.messages_field, config.loss_on, config.turns, config.date)
        elif config.end_of_text and corpus.tokens_field is None:
            self._end = tokenizer.eos_token_id
            if self._end is None:
                raise ConfigError(
                    "got a tokenizer without an end-of-text token, which is put after each document; set its "
                    "eos_token, or task.end_of_text: false"
                )

    def examples(self, table: "pa.Table", where: Where) -> tuple[list[Example], dict[str, int]]:
        by_row, notes = self.by_row(table, where)
        kept, left_out = self.kept(by_row, where)
        placed = self.placed([document for _, document in kept])
        examples = [example for _, example in placed if len(example.positions)]
        notes |= left_out | {"unsupervised": len(placed) - len(examples)}
        return examples, {name: count for name, count in notes.items() if count}

    def by_row(self, table: "pa.Table", where: Where) -> tuple[list[list[Document]], Counter[str]]:
        """The documents of each row, whole, and counts of what was done to them."""
        notes: Counter[str] = Counter()
        if self._corpus.tokens_field is not None:
            ids = id_documents(table, self._corpus, vocabulary_size(self._tokenizer), where)
            by_row = [[document] for document in ids]
        elif self._chats is None:
            by_row = [[document] for document in self._texts(table, where)]
        else:
            by_row, notes = self._chats.by_row(table, where)
        self._check_classes(by_row, where)
        return by_row, notes

    def kept(self, by_row: list[list[Document]], where: Where) -> tuple[list[Kept], Counter[str]]:
        """The documents that examples are made of, and counts of those that are left out or cut."""
        notes: Counter[str] = Counter()
        kept = []
        for row, documents in enumerate(by_row):
            for number, document in enumerate(documents):
                fitting = document if self._config.packing == "windows" else self._fitting(document, notes, row, where)
                if fitting is not None and not len(fitting[0]):
                    notes["empty"] += 1
                elif fitting is not None:
                    kept.append(((row, number), fitting))
        return kept, notes

    def placed(self, documents: Sequence[Document]) -> list[Placed]:
        """The examples that documents make, also those without a supervised position."""
        if self._config.packing == "windows":
            return placed_windows(documents, self._config.sequence_length, self._config.attention)
        return placed_each(documents)

    def _texts(self, table: "pa.Table", where: Where) -> list[Document]:
        """A document of no tokens stands for a text of none."""
        texts = strings(table[self._corpus.text_field], self._corpus.text_field, where)
        full = [text for text in texts if text]
        found = iter(self._tokenizer(full, return_attention_mask=False, verbose=False)["input_ids"] if full else [])
        return [_learnable(self.ended(next(found)) if text else []) for text in texts]

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

    def ended(self, ids: list[int]) -> list[int]:
        """With the end-of-text token behind them, where the settings want one and it is not there."""
        return ids if self._end is None or ids[-1:] in ([], [self._end]) else [*ids, self._end]

    def _fitting(self, document: Document, notes: Counter[str], row: int, where: Where) -> Document | None:
        """A document of at most sequence_length tokens, as `overlong` says; None for one that is dropped."""
        length, overlong = self._config.sequence_length, self._config.overlong
        tokens, learnable = document
        if len(tokens) <= length:
            return document
        if overlong == "error":
            ended = "" if self._end is None else " with its end of text"
            raise RowError(
                where,
                row,
                f" has {len(tokens)} tokens{ended}, expected at most task.sequence_length {length}; set "
                "task.overlong: truncate or drop, or task.packing: windows",
                settings=["task.overlong: truncate or drop", "task.packing: windows"],
            )
        notes["truncated" if overlong == "truncate" else "dropped"] += 1
        return (tokens[:length], learnable[:length]) if overlong == "truncate" else None


def _learnable(ids: list[int]) -> Document:
    return np.asarray(ids, np.int64), np.ones(len(ids), bool)
