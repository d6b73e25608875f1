"""Cuts a corpus into units whose shards have a good size, where the settings leave it open."""

from typing import Any

from kdcache.corpus import Corpus
from kdcache.dump.pins import read_model_config
from kdcache.dump.prepare import features_width
from kdcache.dump.settings import DumpConfig
from kdcache.store.foretold import bytes_per_token
from kdcache.store.schema import task_fields
from kdcache.targets.records import calibrated_of
from kdcache.tasks import task_of
from kdcache.tasks.labels import Labels
from kdcache.tasks.tokenizer import gives_types, vocabulary_size

__all__ = ["cut_into_units"]

TEXT_OF_A_TOKEN = 4.0
"""Bytes of corpus: 4.2 of English text with a vocabulary of 49,152, 3 of Chinese, 4 where they are ids already."""


def cut_into_units(
    config: DumpConfig, corpus: Corpus, tokenizer: Any, labels: Labels | None, folder: str | None
) -> None:
    """Cut it for what is foretold of its shards, alike on every rank.

    Args:
        config: The settings; units of a size that they give stay.
        corpus: Whose units nobody has named yet.
        tokenizer: Of the cache.
        labels: The classes, None for a language model.
        folder: The teacher's, None without one.
    """
    task, vocabulary = task_of(config.task), vocabulary_size(tokenizer)
    classes, records = task.num_classes(vocabulary, labels), config.record if config.teacher != "none" else ()
    fields = task_fields(
        task,
        vocabulary,
        classes,
        records,
        features=features_width(config, folder),
        types=not task.generates and gives_types(tokenizer),
        rank=_rank(config, folder),
    )
    corpus.cut(bytes_per_token(fields, records, classes, one_position=task.one_position) / TEXT_OF_A_TOKEN)


def _rank(config: DumpConfig, folder: str | None) -> int | None:
    """Of the basis of a calibrated record; "full" is the width of the teacher's hidden states."""
    kind = calibrated_of(config.record)
    if kind is None or config.teacher == "none" or folder is None:
        return None
    rank = getattr(kind, "rank", "full")
    width = getattr(read_model_config(config.teacher, folder).get_text_config(), "hidden_size", None)
    return rank if isinstance(rank, int) else width
