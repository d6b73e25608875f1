"""Readers of tasks on a corpus that is not read, for tests of examples."""

from typing import Any

from kdcache.corpus.settings import CorpusConfig
from kdcache.tasks import Reader, task_of


def reader(settings: Any, tokenizer: Any, labels: Any = None, **corpus: Any) -> Reader:
    """What makes examples of rows, for a task of these settings."""
    columns = CorpusConfig(**{"paths": ("x",), "format": "jsonl", **corpus})
    return task_of(settings).reader(tokenizer, columns, labels)
