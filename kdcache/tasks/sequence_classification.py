"""Sequence classification: one record for each example, the teacher's distribution over the classes of a text."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any, ClassVar, Literal

from kdcache.corpus.settings import CorpusConfig
from kdcache.targets.fields import NO_LABEL
from kdcache.tasks.classification import Classification
from kdcache.tasks.labels import Labels
from kdcache.tasks.settings import ClassSettings
from kdcache.tasks.task import Where
from kdcache.tasks.texts import TextReader, TextSettings, TextTask

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = ["ClassReader", "SequenceClassification", "SequenceClassificationConfig"]


class SequenceClassificationConfig(TextSettings, ClassSettings):
    """One class for a whole text, or for a pair of texts (corpus.text_pair_field).

    name: the task.
    overlong: what is read of a longer text: its "head", its "tail", "middle_out" (its first and its last half), or
        "windows", all of it in windows that overlap by a quarter. Each window is an example with the label of its text;
        scores are of texts, by the mean of their windows' probabilities, while loss and KL are of windows. By default
        the tokenizer's truncation side decides, which is the head for most. Pairs have no middle_out and no windows.
    """

    name: Literal["sequence_classification"]
    overlong: Literal["head", "tail", "middle_out", "windows"] | None = None  # type: ignore[assignment]


class SequenceClassification(TextTask, Classification):
    """The task `sequence_classification`: one class for each text or pair of texts."""

    settings: SequenceClassificationConfig
    name = "sequence_classification"
    Settings: ClassVar = SequenceClassificationConfig
    whole_rows = True

    def label_names(self, table: "pa.Table", corpus: CorpusConfig) -> list[str | None]:
        return [] if corpus.label_field is None else table[corpus.label_field].to_pylist()

    def reader(self, tokenizer: Any, corpus: CorpusConfig, labels: Labels | None) -> "ClassReader":
        assert labels is not None
        return ClassReader(self.settings, tokenizer, corpus, labels)


class ClassReader(TextReader):
    """Texts with the id of one class. Notes beside those of texts: examples of each label, "unlabelled" ones."""

    labels: Labels

    def __init__(self, settings: Any, tokenizer: Any, corpus: CorpusConfig, labels: Labels) -> None:
        super().__init__(settings, tokenizer, corpus)
        self.labels = labels

    def row_labels(self, values: Sequence[str | None], where: Where) -> list[int]:
        return [self.labels.id(name, row, where) for row, name in enumerate(values)]

    def counts(self, labels: Sequence[int]) -> dict[str, int]:
        ids = [int(label) for label in labels]
        return {"unlabelled": ids.count(NO_LABEL)} | self.labels.counts(ids)
