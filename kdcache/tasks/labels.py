"""The classes of a classification: their names, in the order of their ids.

They come from the config, else from the teacher, else from the corpus, sorted (numbers by value, "O" first). A teacher
whose config names them LABEL_0, LABEL_1 … has not said what they are: its classes are then "0", "1" ….
"""

import re
import unicodedata
from collections import Counter
from collections.abc import Iterable, Sequence
from typing import Any

from kdcache.corpus.column import MULTI_LABEL, REGRESSION, Where
from kdcache.errors import ConfigError, CorpusError, RowError
from kdcache.targets.fields import NO_LABEL
from kdcache.tasks.label_map import OUTSIDE, LabelMap

__all__ = ["Labels", "is_whole_number", "near", "near_twins", "teacher_labels"]

REAL = re.compile(r"[-+]?\d*\.?\d+(?:[eE][-+]?\d+)?")
WHOLE = re.compile(r"-?\d+(?:\.0+)?")


def is_whole_number(name: str) -> bool:
    return re.fullmatch(r"-?\d+", name) is not None


def _is_list(name: str) -> bool:
    """Whether a label is the text of a list, as tables have them."""
    return re.fullmatch(r"""\[\s*(?:["'\d].*)?\]""", name) is not None


def _whole(name: str) -> str:
    """1.0 -> 1."""
    return str(int(name.partition(".")[0]))


def near(name: str) -> str:
    """What is left of a name without case, white space, and what Unicode writes in several ways."""
    folded = unicodedata.normalize("NFKC", unicodedata.normalize("NFKC", name).casefold())
    return "".join(c for c in folded if not c.isspace() and unicodedata.category(c) != "Cf")


def near_twins(names: Iterable[str]) -> list[list[str]]:
    """Names that differ in no more than that, together."""
    together: dict[str, list[str]] = {}
    for name in names:
        together.setdefault(near(name), []).append(name)
    return [twins for twins in together.values() if len(twins) > 1]


class Labels:
    """Names to ids. setting: what a user may change, for messages. mapped: from what the corpus says to these names.

    Raises ConfigError for a map to a class that is none of these.
    """

    def __init__(self, names: Sequence[str], setting: str = "task.labels", mapped: LabelMap | None = None) -> None:
        self.names = tuple(names)
        self.mapped = LabelMap() if mapped is None else mapped
        self._ids = {name: i for i, name in enumerate(names)}
        self._setting = setting
        self.mapped.check(self.names)

    def __len__(self) -> int:
        return len(self.names)

    @classmethod
    def found(cls, labels: Iterable[str | None], field: str | None, mapped: LabelMap | None = None) -> "Labels":
        """Those that a corpus has, sorted, whole numbers by value, "O" first.

        Raises CorpusError for fewer than two, and for real numbers.
        """
        distinct = {label for label in labels if label is not None}
        if several := next((label for label in sorted(distinct) if _is_list(label)), None):
            raise CorpusError(f"got {several} as a label in the corpus column {field}; {MULTI_LABEL}")
        if mapped is not None:
            distinct = mapped.classes_of(distinct)
        if distinct and all(REAL.fullmatch(label) for label in distinct):
            scores = sorted(label for label in distinct if not WHOLE.fullmatch(label))
            if scores:
                raise CorpusError(f"got the number {scores[0]} as a label in the corpus column {field}; {REGRESSION}")
            distinct = {_whole(label) for label in distinct}
        by_value = all(is_whole_number(label) for label in distinct)
        found = sorted(distinct, key=lambda name: (int(name), name) if by_value else (name != OUTSIDE, name))
        if len(found) < 2:
            got = f"only {found[0]}" if found else "none"
            raise CorpusError(
                f"got {got} as labels in the corpus column {field}, expected at least two; "
                "see corpus.label_field or corpus.tags_field, or name them in task.labels"
            )
        return cls(found, "the labels of the corpus", mapped)

    def renamed(self, name: str) -> str:
        """What the map makes of a label of the corpus."""
        return self.mapped(name, self._ids)

    def id(self, name: str | None, row: int, where: Where) -> int:
        """Of a label of the corpus; NO_LABEL for None. Raises CorpusError for one that is no class."""
        return NO_LABEL if name is None else self.class_id(self.renamed(name), row, where)

    def class_id(self, name: str, row: int, where: Where) -> int:
        """Raises CorpusError for a name that is not one of these."""
        if name in self._ids:
            return self._ids[name]
        if WHOLE.fullmatch(name) and _whole(name) in self._ids:
            return self._ids[_whole(name)]
        twin = next((own for own in self.names if near(own) == near(name)), None)
        hint = (
            "; see task.label_map and task.rest_class"
            if twin is None
            else f"; set task.label_map: {{{name!r}: {twin}}}"
        )
        if REAL.fullmatch(name) and not WHOLE.fullmatch(name):
            hint = f"; {REGRESSION}"
        elif _is_list(name):
            hint = f"; {MULTI_LABEL}"
        raise RowError(
            where,
            row,
            f": got label {name}, expected one of {', '.join(self.names[:12])}"
            f"{', …' if len(self.names) > 12 else ''} ({self._setting}){hint}",
        )

    def counts(self, ids: Iterable[int]) -> dict[str, int]:
        """How often each class occurs, as counts of a summary: {"labelled spam": 12}."""
        return {f"labelled {self.names[i]}": n for i, n in sorted(Counter(ids).items()) if i != NO_LABEL}


def teacher_labels(teacher_config: Any, given: Sequence[str] | None, mapped: LabelMap | None = None) -> Labels:
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
        return Labels(given, mapped=mapped)
    if generic:
        return Labels([str(i) for i in range(len(names))], "the teacher names none: set task.labels", mapped)
    return Labels(names, "the labels of the teacher", mapped)
