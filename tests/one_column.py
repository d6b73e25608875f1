"""A corpus opened for what a language model reads of it: its text, or its chats."""

from typing import Any

from kdcache.corpus import Corpus
from kdcache.corpus import open_corpus as open_columns
from kdcache.corpus.settings import CorpusConfig
from kdcache.tasks import task_of

__all__ = ["open_corpus"]


def open_corpus(config: CorpusConfig, *more: Any) -> Corpus:
    return open_columns(config, task_of({}).columns(config), *more)
