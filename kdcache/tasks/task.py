"""Task: what turns rows of a corpus into supervised examples."""

from collections.abc import Iterator, Mapping
from typing import Any, ClassVar, Protocol, Self

import pyarrow as pa

from kdcache.config.base import Config
from kdcache.corpus import Column
from kdcache.corpus.columns import Where
from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import CorpusError, RowError
from kdcache.tasks.example import Example
from kdcache.tasks.labels import Labels
from kdcache.tasks.registry import TASKS

__all__ = ["Task", "Where", "make_task", "strings", "task_class", "task_columns"]


class Task(Protocol):
    """A task supplies positions and labels.

    labels: the classes, None for a language model, whose tokens they are. remedies: settings of the task that matter
    to no other rows than those that these notes of `examples` count.
    """

    Settings: ClassVar[type[Config]]
    labels: Labels | None
    remedies: ClassVar[Mapping[str, tuple[str, ...]]]

    @staticmethod
    def columns(config: Any, corpus: CorpusConfig) -> tuple[Column, ...]:
        """What `examples` needs of each row. Raises ConfigError for a corpus without a setting that it takes."""
        ...

    @staticmethod
    def texts(table: pa.Table, corpus: CorpusConfig) -> Iterator[str]:
        """All text of these rows, to make a tokenizer of."""
        ...

    @staticmethod
    def label_names(table: pa.Table, corpus: CorpusConfig) -> list[str | None]:
        """All labels of these rows, to make classes of."""
        ...

    @classmethod
    def from_config(cls, config: Any, tokenizer: Any, corpus: CorpusConfig, labels: Labels | None) -> Self: ...

    def check(self, table: pa.Table, where: Where) -> int:
        """How many of these rows have labels. Raises RowError for a row whose labels `examples` would refuse."""
        ...

    def examples(self, table: pa.Table, where: Where) -> tuple[list[Example], dict[str, int]]:
        """Examples of a unit's rows, and counts of what was left out or cut, by name.

        where: row of the table -> "file.jsonl:123". Raises RowError for a row that cannot be used; whether it can does
        not depend on the others.
        """
        ...


def task_class(name: str) -> type[Task]:
    found: type[Task] = TASKS[name]
    return found


def task_columns(config: Any, corpus: CorpusConfig) -> tuple[Column, ...]:
    """The columns that the task reads of the corpus, to open it with. Needs no tokenizer."""
    return task_class(config.name).columns(config, corpus)


def make_task(config: Any, tokenizer: Any, corpus: CorpusConfig, labels: Labels | None = None) -> Task:
    """The task that config.name names, for the columns that the corpus has. labels: of a classification."""
    return task_class(config.name).from_config(config, tokenizer, corpus, labels)


def strings(column: pa.ChunkedArray, field: str, where: Where) -> list[str]:
    """Raises CorpusError for a column of another type, or a null in it."""
    is_text = pa.types.is_string, pa.types.is_large_string, pa.types.is_string_view, pa.types.is_null
    if not any(test(column.type) for test in is_text):
        raise CorpusError(f"{where(0)}: {field} is {column.type}, expected a string")
    if column.null_count:
        row = column.is_null().to_pylist().index(True)
        raise RowError(where, row, f": {field} is null, expected a string; leave such rows out")
    found: list[str] = column.to_pylist()
    return found
