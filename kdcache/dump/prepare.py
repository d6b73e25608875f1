"""What a dump has to know of teacher and corpus before it starts: the classes, the features' width.

Classes that are not given anywhere are collected from the whole corpus, by every rank alike.
"""

from datetime import UTC, date, datetime
from typing import Any

from kdcache.corpus import Corpus
from kdcache.dump.pins import read_model_config
from kdcache.dump.settings import DumpConfig
from kdcache.dump.units import labelled_rows
from kdcache.errors import ConfigError, CorpusError
from kdcache.progress import say
from kdcache.store.cache import begun_header
from kdcache.store.files import Root
from kdcache.tasks.characters import CHARACTERS
from kdcache.tasks.clock import reads_clock
from kdcache.tasks.label_map import LabelMap
from kdcache.tasks.labels import Labels, near_twins, teacher_labels
from kdcache.tasks.settings import LABEL_FIELDS, CausalLMConfig, ClassificationConfig
from kdcache.tasks.task import Task, task_class

__all__ = ["check_labels", "features_width", "find_labels", "made_of_corpus", "with_date"]


def with_date(config: DumpConfig, tokenizer: Any, root: Root) -> DumpConfig:
    """With task.date, where a chat template asks for the day: the config's, else that of the dump that is gone on
    with, else today's (UTC)."""
    task = config.task
    if not isinstance(task, CausalLMConfig) or config.corpus.messages_field is None or task.date is not None:
        return config
    if tokenizer.chat_template is None or not reads_clock(tokenizer.get_chat_template()):
        return config
    begun = begun_header(root)
    day = date.fromisoformat(begun.task["date"]) if begun and "date" in begun.task else datetime.now(UTC).date()
    return config.model_copy(update={"task": task.model_copy(update={"date": day})})


def find_labels(config: DumpConfig, corpus: Corpus, folder: str | None) -> Labels | None:
    """The classes of a classification; None for a language model.

    Raises ConfigError for names that are not the teacher's, CorpusError for a corpus without any.
    """
    if config.task.name == "causal_lm":
        return None
    task: ClassificationConfig = config.task
    mapped = LabelMap.of(task)
    if config.teacher != "none" and folder is not None:
        return teacher_labels(read_model_config(config.teacher, folder), task.labels, mapped)
    if task.labels is not None:
        return _without_twins(Labels(task.labels, mapped=mapped))
    names = task_class(task.name).label_names
    found = {name for table in corpus.tables(skip=config.on_bad_row == "skip") for name in names(table, config.corpus)}
    setting = LABEL_FIELDS[task.name]
    if not found:
        raise CorpusError(
            f"got no labels, expected them from the corpus where there is no teacher: set corpus.{setting}"
        )
    return _without_twins(Labels.found(found, f"corpus.{setting}", mapped))


def _without_twins(labels: Labels) -> Labels:
    """The same, after a warning where names are so near that they may be meant as one."""
    for twins in near_twins(labels.names):
        first, *others = map(repr, twins)
        say(
            f"warning: the classes {', '.join([first, *others])} differ in no more than white space, case or Unicode "
            f"form; if they are one, set task.label_map: {{{', '.join(f'{other}: {first}' for other in others)}}}"
        )
    return labels


def made_of_corpus(config: DumpConfig) -> set[str]:
    """Keys of the header that another corpus gives other values: classes and characters that were collected."""
    keys = {"tokenizer"} if config.tokenizer == CHARACTERS else set()
    if config.teacher == "none" and config.task.name != "causal_lm" and config.task.labels is None:
        keys.add("id2label")
    return keys | {"num_classes", "fields"} if keys else keys


def check_labels(config: DumpConfig, corpus: Corpus, task: Task) -> None:
    """Every label of the corpus, before anything is made of it.

    Raises RowError for one that is wrong unless bad rows are skipped, CorpusError where there is none.
    """
    if config.task.name == "causal_lm":
        return
    skip = config.on_bad_row == "skip"
    labelled = sum(labelled_rows(corpus, task, unit, skip=skip) for unit in range(corpus.num_units))
    if task.labels is not None:
        _say_what_the_map_did(task.labels.mapped)
    setting = LABEL_FIELDS[config.task.name]
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
    if config.record.features is None or config.teacher == "none" or folder is None:
        return None
    width = getattr(read_model_config(config.teacher, folder).get_text_config(), "hidden_size", None)
    if not isinstance(width, int):
        raise ConfigError(
            f"got record.features: {config.record.features} and a teacher whose config has no hidden_size, expected "
            "the width of its features there"
        )
    return width
