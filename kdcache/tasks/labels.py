"""The classes of a classification: their names, in the order of their ids.

They come from the config, else from the teacher, else from the corpus, sorted (numbers by value, "O" first). A teacher
whose config names them LABEL_0, LABEL_1 … has not said what they are: its classes are then "0", "1" ….
"""

import re
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from kdcache.corpus.columns import Where
from kdcache.errors import ConfigError, CorpusError
from kdcache.targets.fields import NO_LABEL

__all__ = ["Labels", "is_whole_number", "teacher_labels"]

OUTSIDE = "O"


def is_whole_number(name: str) -> bool:
    return re.fullmatch(r"-?\d+", name) is not None


class Labels:
    """Names to ids. setting: what a user may change, for messages."""

    def __init__(self, names: Sequence[str], setting: str = "task.labels") -> None:
        self.names = tuple(names)
        self._ids = {name: i for i, name in enumerate(names)}
        self._setting = setting

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def found(cls, labels: Iterable[str | None], field: str | None) -> "Labels":
        """Those that a corpus has, sorted, whole numbers by value, "O" first. Raises CorpusError for fewer than two."""
        distinct = {label for label in labels if label is not None}
        by_value = all(is_whole_number(label) for label in distinct)
        found = sorted(distinct, key=lambda name: (int(name), name) if by_value else (name != OUTSIDE, name))
        if len(found) < 2:
            got = f"only {found[0]}" if found else "none"
            raise CorpusError(
                f"got {got} as labels in the corpus column {field}, expected at least two; "
                "see corpus.label_field or corpus.tags_field, or name them in task.labels"
            )
        return cls(found, "the labels of the corpus")

    def id(self, name: str | None, row: int, where: Where) -> int:
        """NO_LABEL for None. Raises CorpusError for a name that is not one of these."""
        if name is None:
            return NO_LABEL
        if name not in self._ids:
            raise CorpusError(
                f"{where(row)}: got label {name}, expected one of {', '.join(self.names[:12])}"
                f"{', …' if len(self.names) > 12 else ''} ({self._setting})"
            )
        return self._ids[name]

    def counts(self, ids: Iterable[int]) -> dict[str, int]:
        """How often each class occurs, as counts of a summary: {"labelled spam": 12}."""
        return {f"labelled {self.names[i]}": n for i, n in sorted(Counter(ids).items()) if i != NO_LABEL}


def teacher_labels(teacher_config: Any, given: Sequence[str] | None) -> Labels:
    """The classes of a teacher, from its transformers config. Raises ConfigError where `given` names do not fit it."""
    id2label = {int(i): name for i, name in (teacher_config.id2label or {}).items()}
    names = [id2label[i] for i in sorted(id2label)]
    generic = all(re.fullmatch(r"LABEL_\d+", name) for name in names)
    if given is not None:
        if len(given) != len(names) or not (generic or [*given] == names):
            raise ConfigError(
                f"got task.labels {', '.join(given)}, expected those of the teacher: "
                f"{', '.join(names) if not generic else f'{len(names)} of them'}"
            )
        return Labels(given)
    if generic:
        return Labels([str(i) for i in range(len(names))], "the teacher names none: set task.labels")
    return Labels(names, "the labels of the teacher")
