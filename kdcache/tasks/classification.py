"""Classification: what the tasks whose classes exclude each other have in common.

Their records are dense: a classification has few classes. Their labels are class ids.

P positions, C classes.
"""

from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from typing import Any, ClassVar

import numpy as np

from kdcache.errors import CacheError, CorpusError, TeacherError
from kdcache.progress import say
from kdcache.targets.fields import NO_LABEL, Field
from kdcache.tasks.class_score import class_score, class_verdict
from kdcache.tasks.label_map import LabelMap
from kdcache.tasks.labels import Labels, near_twins, teacher_labels
from kdcache.tasks.measures import AGREEMENT, KL, LABEL_NLL, Measure, percent
from kdcache.tasks.metrics import Predictions, class_scores, scores
from kdcache.tasks.score import Records, Score, Verdict
from kdcache.tasks.settings import ClassSettings
from kdcache.tasks.stored import as_integers, check_classes
from kdcache.tasks.task import Task

__all__ = ["Classification"]


class Classification(Task):
    """A task of a few classes that exclude each other: softmax, cross-entropy, one label for each position.

    Attributes:
        entities: Whether tags of entities, such as B-PER, are scored as the entities that they make.
        whole_rows: Whether a row of text that became several examples is scored once, by the mean of their
            probabilities.
    """

    settings: ClassSettings
    entities: ClassVar[bool] = False
    whole_rows: ClassVar[bool] = False
    measures: ClassVar[Mapping[str, Measure]] = {
        "accuracy": Measure("accuracy", percent),
        "macro_f1": Measure("macro-F1", percent),
        "ece": Measure("ECE", lambda value: f"{value:.3f}"),
        "label_nll": LABEL_NLL,
        "kl": KL,
        "agreement": AGREEMENT,
    }

    def label_map(self) -> LabelMap:
        return LabelMap(self.settings.label_map, self.settings.rest_class)

    @property
    def finds_classes(self) -> bool:
        return self.settings.labels is None

    def classes(self, teacher: Any | None, found: Callable[[], set[str | None]]) -> Labels:
        mapped, given = self.label_map(), self.settings.labels
        if teacher is not None:
            return teacher_labels(teacher, given, mapped)
        if given is not None:
            return _without_twins(Labels(given, mapped=mapped))
        names = found()
        if not names:
            raise CorpusError(
                "got no labels, expected them from the corpus where there is no teacher: set "
                f"corpus.{self.label_setting}"
            )
        return _without_twins(Labels.found(names, f"corpus.{self.label_setting}", mapped))

    def label_fields(self, num_classes: int) -> tuple[Field, ...]:
        return (Field("labels", "position", "int16" if num_classes < 1 << 15 else "int32"),)

    def checked_labels(self, labels: Any, tokens_L: np.ndarray, positions_P: np.ndarray, num_classes: int) -> Any:
        if labels is None:
            raise CacheError(f"got no labels, expected one per position for task {self.name}")
        labels_P = as_integers(labels, "labels")
        if len(labels_P) != len(positions_P):
            raise CacheError(f"got {len(labels_P)} labels, expected {len(positions_P)}, one per position")
        check_classes(labels_P[labels_P != NO_LABEL], num_classes, f", or {NO_LABEL} where there is none")
        return labels_P

    def label_faults(self, labels: np.ndarray, num_classes: int) -> Iterator[str]:
        if len(labels) and labels.max() >= num_classes:
            yield f"labels go up to {labels.max()}, expected below {num_classes}"
        if ((labels < 0) & (labels != NO_LABEL)).any():
            yield f"labels hold {labels.min()}, expected class ids or {NO_LABEL}"

    def score(self, parts: Iterable[Records], num_classes: int) -> Score | None:
        return class_score(parts, num_classes, whole_rows=self.whole_rows)

    def verdict(self, score: Score, names: Sequence[str], num_classes: int) -> Verdict:
        return class_verdict(score, names or [*map(str, range(num_classes))])

    def check_teacher(self, config: Any, num_classes: int) -> None:
        kind = getattr(config, "problem_type", None)
        if kind not in (None, "single_label_classification") or num_classes < 2:
            raise TeacherError(
                f"got a teacher for {kind or 'regression'} ({config.num_labels} outputs), expected one of two or "
                "more classes that exclude each other: else see task.name: regression and multilabel_classification"
            )

    def figures(
        self, means: Mapping[str, float], predictions: Predictions | None, names: Sequence[str]
    ) -> dict[str, float]:
        assert predictions is not None
        return {**means, **self._scores(predictions, names)}

    def teacher_figures(
        self, label_nll: float | None, predictions: Callable[[], Predictions], names: Sequence[str]
    ) -> dict[str, Any]:
        found = predictions()
        figures = {"label_nll": label_nll, "kl": 0.0, "agreement": 1.0, **self._scores(found, names)}
        return figures | {"classes": self.class_table(found, names)}

    def class_table(self, predictions: Predictions, names: Sequence[str]) -> list[dict[str, Any]]:
        return class_scores(predictions, names, whole_rows=self.whole_rows, entities=self.entities)

    def _scores(self, predictions: Predictions, names: Sequence[str]) -> dict[str, float]:
        return scores(predictions, names, whole_rows=self.whole_rows, entities=self.entities)


def _without_twins(labels: Labels) -> Labels:
    """The same, after a warning where names are so near that they may be meant as one."""
    for twins in near_twins(labels.names):
        first, *others = map(repr, twins)
        say(
            f"warning: the classes {', '.join([first, *others])} differ in no more than white space, case or Unicode "
            f"form; if they are one, set task.label_map: {{{', '.join(f'{other}: {first}' for other in others)}}}"
        )
    return labels
