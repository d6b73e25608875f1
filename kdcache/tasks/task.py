"""Task: what turns rows of a corpus into supervised examples, and the registry of tasks by name."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol, Self

from kdcache.config import CausalLMConfig, CorpusConfig
from kdcache.corpus import Column
from kdcache.errors import ConfigError
from kdcache.tasks.example import Example

__all__ = ["Task", "Where", "make_task", "task_columns"]

Where = Callable[[int], str]

HOMES = {"causal_lm": ("kdcache.tasks.causal_lm", "CausalLM")}


class Task(Protocol):
    """A task supplies positions and labels; auto_class names the transformers class whose head fits them.

    labels_follow: whether the label of position t is token t + 1, so that a cache need not store labels.
    """

    name: str
    auto_class: str
    labels_follow: bool

    @staticmethod
    def columns(config: Any, corpus: CorpusConfig) -> tuple[Column, ...]:
        """What `examples` needs of each row. Raises ConfigError for a corpus without a setting that it takes."""
        ...

    @classmethod
    def from_config(cls, config: Any, tokenizer: Any, corpus: CorpusConfig) -> Self: ...

    def examples(self, table: Any, where: Where) -> tuple[list[Example], dict[str, int]]:
        """Examples of a unit's rows (pyarrow.Table), and counts of what was left out or cut, by name.

        where: row of the table -> "file.jsonl:123". Raises CorpusError naming the row at fault.
        """
        ...


def task_columns(config: CausalLMConfig, corpus: CorpusConfig) -> tuple[Column, ...]:
    """The columns that the task reads of the corpus, to open it with. Needs no tokenizer."""
    return _task_class(config.name).columns(config, corpus)


def make_task(config: CausalLMConfig, tokenizer: Any, corpus: CorpusConfig) -> Task:
    """The task that config.name names, for the fields that the corpus has."""
    return _task_class(config.name).from_config(config, tokenizer, corpus)


def _task_class(name: str) -> type[Task]:
    if name not in HOMES:
        raise ConfigError(f"got task.name {name}, expected {' or '.join(HOMES)}")
    module, attribute = HOMES[name]
    found: type[Task] = getattr(import_module(module), attribute)
    return found
