"""Score and Verdict: what a teacher's records say of the labels, in sums and in words.

Sums are whole numbers, so that they are the same at every world size, in whatever order shards are written and added.

P positions.
"""

from collections.abc import Iterable, Mapping, Sequence
from typing import TYPE_CHECKING, Annotated, Any, Protocol

import numpy as np
from pydantic import AfterValidator, ConfigDict, RootModel

if TYPE_CHECKING:
    from kdcache.targets.record import TeacherTargets

__all__ = ["MOST_NATS", "Records", "Score", "Verdict", "label_nats", "total_score"]

MOST_NATS = 240.0
"""The loss of a label to which the teacher gives no probability: what a record can tell from none."""


class Records(Protocol):
    """Some examples of a shard with their records, as kdcache.store.batch.Batch gives them."""

    @property
    def labels(self) -> np.ndarray: ...
    @property
    def continues(self) -> np.ndarray: ...
    def __len__(self) -> int: ...
    def targets(self) -> "TeacherTargets": ...


def _whole_numbers(sums: dict[str, Any]) -> dict[str, Any]:
    for key, value in sums.items():
        if isinstance(value, dict):
            _whole_numbers(value)
        elif type(value) is not int:
            raise ValueError(f"got {key}: {value!r}, expected a whole number")
    return sums


class Score(RootModel[Annotated[dict[str, Any], AfterValidator(_whole_numbers)]]):
    """Whole numbers by name, or nested under one; the sum of two scores adds number to number.

    Which ones a task defines in `Task.score`; "labelled", the number of positions with a label, is always there.
    """

    model_config = ConfigDict(frozen=True)

    def __getitem__(self, name: str) -> Any:
        return self.root[name]

    def get(self, name: str) -> Any | None:
        return self.root.get(name)

    def __add__(self, other: "Score") -> "Score":
        return Score(_sum(self.root, other.root))


def total_score(scores: Iterable[Mapping[str, Any]]) -> Score | None:
    """The sum of the mappings of scores; None of none.

    Raises TypeError, ValueError or AttributeError for scores of different kinds.
    """
    total: Mapping[str, Any] | None = None
    for score in scores:
        total = score if total is None else _sum(total, score)
    return None if total is None else Score(dict(total))


def _sum(first: Mapping[str, Any], second: Mapping[str, Any]) -> dict[str, Any]:
    return {key: _added(first.get(key), second.get(key)) for key in {**first, **second}}


def _added(first: Any, second: Any) -> Any:
    if first is None or second is None:
        return second if first is None else first
    return _sum(first, second) if isinstance(first, dict) else first + second


class Verdict:
    """figures: by name, for JSON. line: for a person. warnings: what is wrong with it, one line each."""

    def __init__(self, figures: dict[str, Any], line: str, warnings: Sequence[str] = ()) -> None:
        self.figures, self.line, self.warnings = figures, line, [*warnings]


def label_nats(part: Records) -> np.ndarray:
    """−log p of each label at T = 1 as the records have it, float64 [P], at most 240; nonsense where none is known.

    Raises ValueError for records that do not say.
    """
    import torch

    losses_P = part.targets().label_losses(torch.from_numpy(part.labels))
    if losses_P is None:
        raise ValueError("got records that do not keep what the label has, expected its logit")
    return np.clip(losses_P.numpy(), 0.0, MOST_NATS)
