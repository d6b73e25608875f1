"""What a dump has to know of teacher and corpus before it starts: the classes, the features' width.

Classes that are not given anywhere are collected from the whole corpus, by every rank alike.
"""

from typing import Any

from kdcache.corpus import Corpus
from kdcache.dump.pins import read_model_config
from kdcache.dump.settings import DumpConfig
from kdcache.dump.units import labelled_rows
from kdcache.errors import ConfigError, CorpusError
from kdcache.progress import say
from kdcache.store.cache import begun_header
from kdcache.store.files import Root
from kdcache.targets.records import features_at
from kdcache.tasks import Reader, task_of
from kdcache.tasks.characters import CHARACTERS
from kdcache.tasks.label_map import LabelMap
from kdcache.tasks.labels import Labels

__all__ = ["check_labels", "features_width", "find_labels", "made_of_corpus", "settled"]


def settled(config: DumpConfig, tokenizer: Any, root: Root) -> DumpConfig:
    """With what the task has to decide before a dump, such as the day of a chat template; that of a dump that is gone
    on with stays."""
    begun = begun_header(root)
    task = task_of(config.task).settled(tokenizer, config.corpus, begun.task if begun else None)
    return config.model_copy(update={"task": task.settings})


def find_labels(config: DumpConfig, corpus: Corpus, folder: str | None) -> Labels | None:
    """The classes; None for a language model, whose tokens they are.

    Raises ConfigError for names that are not the teacher's, TeacherError for a teacher of another task, CorpusError for
    a corpus without any.
    """
    task = task_of(config.task)
    model_config = None
    if config.teacher != "none" and folder is not None and not task.generates:
        model_config = read_model_config(config.teacher, folder)
        task.check_teacher(model_config, model_config.num_labels)

    def found() -> set[str | None]:
        tables = corpus.tables(skip=config.on_bad_row == "skip")
        return {name for table in tables for name in task.label_names(table, config.corpus)}

    return task.classes(model_config, found)


def made_of_corpus(config: DumpConfig) -> set[str]:
    """Keys of the header that another corpus gives other values: classes and characters that were collected."""
    keys = {"tokenizer"} if config.tokenizer == CHARACTERS else set()
    if config.teacher == "none" and task_of(config.task).finds_classes:
        keys.add("id2label")
    return keys | {"num_classes", "fields"} if keys else keys


def check_labels(config: DumpConfig, corpus: Corpus, reader: Reader) -> None:
    """Every label of the corpus, before anything is made of it.

    Raises RowError for one that is wrong unless bad rows are skipped, CorpusError where there is none.
    """
    setting = task_of(config.task).label_setting
    if setting is None:
        return
    skip = config.on_bad_row == "skip"
    labelled = sum(labelled_rows(corpus, reader, unit, skip=skip) for unit in range(corpus.num_units))
    if reader.labels is not None:
        _say_what_the_map_did(reader.labels.mapped)
    field = getattr(config.corpus, setting)
    if labelled == 0 and field is not None and config.corpus.format != "conll":
        raise CorpusError(
            f"no row of the corpus has a label in its field {field} (corpus.{setting}), expected some; set the right "
            f"field, or leave corpus.{setting} out where there are none"
        )


def _say_what_the_map_did(mapped: LabelMap) -> None:
    if mapped.rested:
        names = ", ".join(f"{name} {count:,}" for name, count in mapped.rested.most_common(8))
        more = ", …" if len(mapped.rested) > 8 else ""
        say(f"{mapped.rested.total():,} labels became task.rest_class {mapped.rest}: {names}{more}")
    if mapped.unused:
        say(f"warning: task.label_map names {', '.join(mapped.unused)}, which no row of the corpus has")


def features_width(config: DumpConfig, folder: str | None) -> int | None:
    """Of the teacher's hidden states, where the record keeps them. Raises ConfigError where its config is silent."""
    at = features_at(config.record)
    if at is None or config.teacher == "none" or folder is None:
        return None
    width = getattr(read_model_config(config.teacher, folder).get_text_config(), "hidden_size", None)
    if not isinstance(width, int):
        raise ConfigError(
            f"got a record of features at {at} and a teacher whose config has no hidden_size, expected "
            "the width of its features there"
        )
    return width
