"""Task: what turns rows of a corpus into supervised examples, and the registry of tasks by name."""

from collections.abc import Callable
from importlib import import_module
from typing import Any, Protocol

from kdcache.config import CausalLMConfig, CorpusConfig
from kdcache.errors import ConfigError
from kdcache.tasks.example import Example

__all__ = ["Task", "Where", "make_task"]

Where = Callable[[int], str]

HOMES = {"causal_lm": ("kdcache.tasks.causal_lm", "CausalLM")}


class Task(Protocol):
    """A task supplies positions and labels; auto_class names the transformers class whose head fits them.

    labels_follow: whether the label of position t is token t + 1, so that a cache need not store labels.
    """

    name: str
    auto_class: str
    labels_follow: bool

    def examples(self, table: Any, where: Where) -> tuple[list[Example], dict[str, int]]:
        """Examples of a unit's rows (pyarrow.Table), and counts of what was left out or cut, by name.

        where: row of the table -> "file.jsonl:123". Raises CorpusError naming the row at fault.
        """
        ...


def make_task(config: CausalLMConfig, tokenizer: Any, corpus: CorpusConfig) -> Task:
    """The task that config.name names, for the fields that the corpus has."""
    if config.name not in HOMES:
        raise ConfigError(f"got task.name {config.name}, expected {' or '.join(HOMES)}")
    module, name = HOMES[config.name]
    task: Task = getattr(import_module(module), name)(config, tokenizer, corpus.text_field, corpus.messages_field)
    return task
