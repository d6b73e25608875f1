"""What a dump knows before its first shard: corpus, tokenizers, classes, and what turns rows into examples.

No weights of a teacher are read for it. `--check` stops here, a dump goes on.
"""

from dataclasses import dataclass
from functools import cached_property
from pathlib import Path
from typing import Any

from kdcache.corpus import Corpus, open_corpus
from kdcache.dump.prepare import check_labels, find_labels, settled
from kdcache.dump.resume import as_begun, lay_out
from kdcache.dump.settings import DumpConfig
from kdcache.dump.teacher import teacher_folder
from kdcache.dump.teacher_files import TeacherFiles
from kdcache.dump.tokenizers import OwnTokens, find_tokenizers, own_tokens
from kdcache.dump.trial import first_examples
from kdcache.dump.unit_size import cut_into_units
from kdcache.dump.units import UnitExamples, remedies, unit_examples
from kdcache.models.registry import register_small_models
from kdcache.store.files import Root
from kdcache.tasks import Example, Reader, Task, task_of
from kdcache.tasks.labels import Labels
from kdcache.tasks.tokenizer import vocabulary_size

__all__ = ["Material", "gather"]


@dataclass(frozen=True)
class Material:
    """config: with what the task had to decide. root: of the cache. folder: the teacher's, None without one.

    own: what makes tokens for a teacher that reads others than the cache's. reader: rows to examples of the cache.
    kept: how many shards of a finished cache have to stay, to which more are appended.
    """

    config: DumpConfig
    root: Root
    folder: str | None
    corpus: Corpus
    tokenizer: Any
    labels: Labels | None
    own: OwnTokens | None
    task: Task
    reader: Reader
    kept: int = 0

    @property
    def num_classes(self) -> int:
        return self.task.num_classes(vocabulary_size(self.tokenizer), self.labels)

    @property
    def remedies(self) -> dict[str, str]:
        """The settings that say what becomes of bad and overlong rows."""
        return remedies(self.config)

    @property
    def fed_with(self) -> Any:
        """The tokenizer whose tokens the teacher reads."""
        return self.own.tokenizer if self.own else self.tokenizer

    @property
    def longest(self) -> int:
        """Tokens of an example of the teacher's, at most."""
        return self.asked.longest

    @property
    def asked(self) -> Task:
        """The task as the teacher is asked it."""
        return self.own.task if self.own else self.task

    @cached_property
    def teacher_files(self) -> TeacherFiles | None:
        """Digested when they are first asked for, which is before the teacher is loaded; None without a teacher."""
        if self.folder is None or self.config.teacher == "none":
            return None
        return TeacherFiles(self.folder, code=self.config.teacher.trust_remote_code)

    def check_unchanged(self, unit: int) -> None:
        """Raises CorpusError or TeacherError where files that this unit was made of are no longer what they were."""
        self.corpus.check_unchanged(unit)
        if self.teacher_files is not None:
            self.teacher_files.check_unchanged()

    @cached_property
    def first_examples(self) -> list[Example]:
        """What the teacher is tried out on, in the tokens that it reads."""
        return first_examples(self.corpus, self.own.reader if self.own else self.reader)

    def unit(self, number: int, *, skip: bool) -> UnitExamples:
        """The examples of one unit of work. skip: leave bad rows out; otherwise the first one is raised."""
        own = self.own.reader if self.own else None
        return unit_examples(self.corpus, self.reader, number, skip=skip, own=own)


def gather(
    config: DumpConfig,
    *,
    weights: bool = True,
    work: Path | None = None,
    skip_bad_rows: bool = False,
    append: bool = False,
) -> Material:
    """Open what a dump is made of.

    Args:
        config: the settings.
        weights: whether a teacher on the hub is fetched with its weights.
        work: where a cache's scratch files may lie.
        skip_bad_rows: whatever config.on_bad_row says, as a check does that is to see them all.
        append: keep every shard of the finished cache, and cut what the corpus has beyond it into units of its own.

    Raises:
        ConfigError, CorpusError, TeacherError: the settings, the corpus or the teacher's folder cannot be used.
    """
    root, folder = Root(config.output), None
    corpus_config = as_begun(config.corpus, root)
    if config.teacher != "none":
        folder = teacher_folder(config.teacher, weights=weights)
        register_small_models()
    columns = task_of(config.task).columns(config.corpus)
    corpus = open_corpus(corpus_config, columns, work)
    found = {name: getattr(corpus.config, name) for name in ("split", "subset", "revision")}
    config = config.model_copy(update={"corpus": config.corpus.model_copy(update=found)})
    looking = config.model_copy(update={"on_bad_row": "skip"}) if skip_bad_rows else config
    tokenizers = find_tokenizers(looking, corpus, folder)
    config = settled(config, tokenizers.cache, root)
    labels = find_labels(looking, corpus, folder)
    own = own_tokens(config, tokenizers, labels, folder)
    cut_into_units(config, corpus, tokenizers.cache, labels, folder)
    kept = lay_out(corpus, root, append=append)
    task = task_of(config.task)
    reader = task.reader(tokenizers.cache, config.corpus, labels)
    check_labels(looking, corpus, reader)
    return Material(config, root, folder, corpus, tokenizers.cache, labels, own, task, reader, kept)
