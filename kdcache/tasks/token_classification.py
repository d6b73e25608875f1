"""Token classification, such as named entities: a record for each word, at its first sub-token.

Words are encoded as they stand in running text (running_text.py), so that a student meets in a pipeline the tokens
that it was trained on.

A row longer than max_length becomes windows that overlap by a quarter, each word supervised once, in the window in
which it is further from an edge that is not the row's own. So no word is left out, however long the row. A word that
the tokenizer makes nothing of stands as the unknown token, and is counted: its tag is still asked for.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Any, ClassVar, Literal

import numpy as np
from pydantic import Field

from kdcache.corpus.column import Column
from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import ConfigError, RowError
from kdcache.tasks.classification import Classification
from kdcache.tasks.example import Example
from kdcache.tasks.label_map import LabelMap
from kdcache.tasks.labels import Labels, is_whole_number
from kdcache.tasks.measures import Measure, Usage, percent
from kdcache.tasks.running_text import encode_rows
from kdcache.tasks.settings import ClassSettings
from kdcache.tasks.task import Reader, Where
from kdcache.tasks.windows import OVERLAP, Surroundings, window_starts

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["TokenClassification", "TokenClassificationConfig", "check_bio"]


class TokenClassificationConfig(ClassSettings):
    """A tag for each word, as named entities have. The first sub-token of a word is supervised, the rest is not.

    name: the task.
    max_length: the most tokens of an example; longer rows become overlapping windows, and each word is supervised in
        the window that shows most of what is around it.
    labels: the names of the tags, in the order of their ids. By default they are those of the teacher; without a
        teacher they are those that the corpus has, sorted, "O" first.
    label_map: from tags of the corpus to names of tags; a tag that is itself such a name needs no entry. Under scheme
        "bio" a key may also be what follows B- and I-: {PER: PERSON} renames both tags, and {MISC: O} drops both.
    rest_class: the tag of every tag that is neither in label_map nor a class; O drops every tag that the teacher lacks.
    scheme: "bio" refuses tags that are not BIO (O, B-X, and I-X after B-X or I-X); "none" takes any tags.
    separator: what stands between two words in running text, which is how a row is encoded: " ", "", or "auto", which
        is nothing in rows of scripts without spaces, such as Chinese, and a space in others.
    attention: every token of an example sees every other.
    """

    name: Literal["token_classification"]
    max_length: Annotated[int, Field(ge=8, le=2**24)] = 256
    scheme: Literal["bio", "none"] = "bio"
    separator: Literal["auto", " ", ""] = "auto"
    attention: Literal["full"] = "full"


class TokenClassification(Classification):
    """The task `token_classification`: a tag for each word."""

    settings: TokenClassificationConfig
    name = "token_classification"
    Settings: ClassVar = TokenClassificationConfig
    auto_class = "AutoModelForTokenClassification"
    pipeline = "token-classification"
    entities = True
    label_setting = "tags_field"
    measures: ClassVar[Mapping[str, Measure]] = {
        "accuracy": Measure("accuracy", percent),
        "macro_f1": Measure("macro-F1", percent),
        "entity_f1": Measure("entity F1", percent),
        **Classification.measures,
    }

    def label_map(self) -> LabelMap:
        return LabelMap(self.settings.label_map, self.settings.rest_class, bio=self.settings.scheme == "bio")

    def columns(self, corpus: CorpusConfig) -> tuple[Column, ...]:
        words, tags = _fields(corpus)
        column = Column(words, "tokens_field", kind="words")
        return (column,) if tags is None else (column, Column(tags, "tags_field", required=False, kind="labels"))

    def texts(self, table: "pa.Table", corpus: CorpusConfig) -> Iterator[str]:
        words, _ = _fields(corpus)
        return (word for row in table[words].to_pylist() for word in row)

    def label_names(self, table: "pa.Table", corpus: CorpusConfig) -> list[str | None]:
        _, tags = _fields(corpus)
        return [] if tags is None else [tag for row in table[tags].to_pylist() for tag in row or []]

    def reader(self, tokenizer: Any, corpus: CorpusConfig, labels: Labels | None) -> "WordReader":
        assert labels is not None
        return WordReader(self.settings, tokenizer, corpus, labels)

    def usage(self, longest: int | None) -> Usage:
        notes = ["The tag of a word is that of its first token."]
        if longest:
            windows = f'stride={longest // OVERLAP}, aggregation_strategy="first"'
            notes.append(f"Texts longer than {longest} tokens: `pipeline(…, {windows})`.")
        return Usage('model("a text")', notes=tuple(notes))


class WordReader(Reader):
    """Rows of words -> examples whose positions are the words' first tokens.

    Notes: rows "windowed" for their length, words "unreadable" to the tokenizer, "empty" rows, rows whose words are
    "kept_apart" because the tokenizer joins some of them into one token, words of each tag, "unlabelled" words.
    """

    labels: Labels

    def __init__(self, config: TokenClassificationConfig, tokenizer: Any, corpus: CorpusConfig, labels: Labels) -> None:
        self.labels = labels
        self._config, self._tokenizer = config, tokenizer
        self._words, self._tags = _fields(corpus)
        if not tokenizer.is_fast:
            raise ConfigError(
                f"got {type(tokenizer).__name__}, which does not tell which word a token is of, expected a tokenizer "
                "with tokenizer.json"
            )
        self._special = Surroundings.of(tokenizer)
        if self._room < 2:
            raise ConfigError(f"got task.max_length {config.max_length}, expected room for words beside special tokens")

    @property
    def _room(self) -> int:
        return self._config.max_length - len(self._special)

    def check(self, table: "pa.Table", where: Where) -> int:
        tagged = 0
        for row, (words, tags) in enumerate(self._rows(table)):
            self._ids(tags, len(words), row, where)
            tagged += bool(words) and tags is not None
        return tagged

    def _rows(self, table: "pa.Table") -> Iterator[tuple[list[str], list[str] | None]]:
        """(words, tags) of each row."""
        rows = table[self._words].to_pylist()
        return zip(rows, [None] * len(rows) if self._tags is None else table[self._tags].to_pylist(), strict=True)

    def examples(self, table: "pa.Table", where: Where) -> tuple[list[Example], dict[str, int]]:
        rows = [*self._rows(table)]
        examples: list[Example] = []
        notes = {"empty": 0, "windowed": 0, "kept_apart": 0, "unreadable": 0, "unlabelled": 0}
        all_ids: list[int] = []
        filled = [words for words, _ in rows if words]
        encoded = iter(encode_rows(self._tokenizer, filled, self._config.separator) if filled else [])
        unknown = _placeholder(self._tokenizer)
        for row, (words, row_tags) in enumerate(rows):
            if not words:
                notes["empty"] += 1
                continue
            row_tokens = next(encoded)
            tokens, firsts, unreadable = _with_every_word(row_tokens.ids, row_tokens.words, len(words), unknown)
            ids = self._ids(row_tags, len(words), row, where)
            windows = self._windows(tokens, firsts, ids)
            notes["windowed"] += len(tokens) > self._room
            notes["kept_apart"] += row_tokens.apart
            notes["unreadable"] += unreadable
            notes["unlabelled"] += len(words) if row_tags is None else 0
            all_ids += ids
            examples += windows
        counts = notes | self.labels.counts(all_ids)
        return examples, {name: count for name, count in counts.items() if count}

    def _ids(self, tags: list[str] | None, count: int, row: int, where: Where) -> list[int]:
        if tags is None:
            return [self.labels.id(None, row, where)] * count
        if len(tags) != count:
            raise RowError(where, row, f": got {len(tags)} tags, expected {count}, one for each word")
        names = [self.labels.renamed(tag) for tag in tags]
        if self._config.scheme == "bio":
            check_bio(names, row, where)
        return [self.labels.class_id(name, row, where) for name in names]

    def _windows(self, tokens: np.ndarray, firsts: np.ndarray, ids: list[int]) -> list[Example]:
        starts = window_starts(len(tokens), self._room)
        # A word belongs to the last window of which it lies behind the first half of the overlap.
        borders = starts[1:] + self._room // OVERLAP // 2
        owner = np.searchsorted(borders, firsts, side="right")
        labels = np.array(ids, np.int64)
        examples: list[Example] = []
        for window, start in enumerate(starts):
            mine = owner == window
            if not mine.any():
                continue
            body = tokens[start : start + self._room]
            whole, types = self._special.around(body), self._special.types_around(len(body))
            positions = firsts[mine] - start + len(self._special.prefix)
            continues = len(examples) > 0
            examples.append(Example(whole, positions, labels[mine], np.array([len(whole)]), continues, types))
        return examples


def check_bio(tags: list[str], row: int, where: Where) -> None:
    """Raises CorpusError for the first tag that is not BIO."""
    before = "O"
    for word, tag in enumerate(tags, 1):
        kind = tag[2:]
        if not (tag == "O" or (tag[:2] in ("B-", "I-") and kind)):
            hint, setting = "set task.scheme: none for other tags, such as parts of speech", "task.scheme: none"
            if is_whole_number(tag):
                hint, setting = "name integers in corpus.label_names", "corpus.label_names"
            words = f": got tag {tag} for word {word}, expected O, B-X or I-X; {hint}"
            raise RowError(where, row, words, settings=[setting])
        if tag[:2] == "I-" and before not in (f"B-{kind}", f"I-{kind}"):
            raise RowError(
                where,
                row,
                f": got tag {tag} for word {word} after {before}, expected B-{kind} or I-{kind} before it: "
                "mend the tags, or set task.scheme: none",
                settings=["task.scheme: none"],
            )
        before = tag


def _fields(corpus: CorpusConfig) -> tuple[str, str | None]:
    """Columns of words and tags; CoNLL files have these two by nature."""
    if corpus.format == "conll":
        return "tokens", None if corpus.tags_field is None else "tags"
    return corpus.tokens_field or "tokens", corpus.tags_field


def _placeholder(tokenizer: Any) -> int:
    for token in (tokenizer.unk_token_id, tokenizer.pad_token_id, tokenizer.eos_token_id):
        if token is not None:
            return int(token)
    return 0


def _with_every_word(
    ids: np.ndarray, words: np.ndarray, count: int, unknown: int
) -> tuple[np.ndarray, np.ndarray, int]:
    """(sub-tokens, index of the first of each word, how many words had none and got `unknown`).

    words: the word of each sub-token, ascending.
    """
    missing = np.setdiff1d(np.arange(count), words)
    if len(missing):
        at = np.searchsorted(words, missing)
        ids, words = np.insert(ids, at, unknown), np.insert(words, at, missing)
    return ids, np.searchsorted(words, np.arange(count)), len(missing)
