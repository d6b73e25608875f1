"""What tables show of a task's models, and how its finished students are called."""

from collections.abc import Callable
from dataclasses import dataclass

__all__ = ["AGREEMENT", "KL", "LABEL_NLL", "Measure", "Usage", "percent"]


@dataclass(frozen=True)
class Measure:
    """A column of `kdcache eval`. title: above it. spoken: how a value is written."""

    title: str
    spoken: Callable[[float], str]


@dataclass(frozen=True)
class Usage:
    """How transformers' pipeline runs a student. arguments: of `pipeline`, beginning with a comma. call: one line of
    Python. notes: sentences on what a user has to know."""

    call: str
    arguments: str = ""
    notes: tuple[str, ...] = ()


def percent(value: float) -> str:
    return f"{value:.1%}"


LABEL_NLL = Measure("label NLL", lambda value: f"{value:.3f}")
KL = Measure("KL to teacher", lambda value: f"{value:.3f}")
AGREEMENT = Measure("top-1 agreement", percent)
