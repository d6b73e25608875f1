"""Capture: the interface of a format, an input cut into units; Captured: one text with the distributions in it.

P positions, E entries, flat, V classes, L tokens.
"""

from abc import ABC, abstractmethod
from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import Any, ClassVar

import numpy as np

from kdcache.imports.options import ImportOptions

__all__ = ["SENTINEL", "Capture", "Captured"]

SENTINEL = -1000.0
"""A log-probability of this or less stands for an entry that is not there: vLLM writes −9999, Megatron −10000."""


@dataclass(frozen=True, eq=False)
class Captured:
    """One text and what the teacher said in it.

    Attributes:
        where: Its place, "file.jsonl:12".
        tokens: int64 [L].
        positions: int64 [P], ascending. The distribution at position p is of token p + 1.
        counts: int64 [P], entries of each; 0s where `dense` is given.
        ids: int64 [E].
        log_probs: float64 [E].
        dense: float64 [P, V] log-probabilities of all classes, of a format that knows them.
    """

    where: str
    tokens: np.ndarray
    positions: np.ndarray
    counts: np.ndarray
    ids: np.ndarray
    log_probs: np.ndarray
    dense: np.ndarray | None = None

    @property
    def top_P(self) -> np.ndarray:
        """The likeliest class of each distribution, −1 of one without an entry."""
        if self.dense is not None:
            return self.dense.argmax(1)
        top_P = np.full(len(self.counts), -1)
        rows_E = np.repeat(np.arange(len(self.counts)), self.counts)
        order_E = np.lexsort((self.log_probs, rows_E))
        top_P[rows_E[order_E]] = self.ids[order_E]  # the last of a row is its likeliest
        return top_P


class Capture(ABC):
    """A capture of one format, opened.

    knows_every_class: whether its texts have `dense`; then any record can be made of them.
    may_have_label: whether the label may be an entry besides the likeliest ones, as in vLLM's prompt_logprobs.
    sum_tolerance: by how much rounding may take the probabilities of a position beyond 1.
    """

    knows_every_class: ClassVar[bool] = False
    may_have_label: ClassVar[bool] = False
    sum_tolerance: float = 1e-3

    @abstractmethod
    def __init__(self, paths: Sequence[str], options: ImportOptions) -> None:
        """Open it. Raises CorpusError where it is missing, damaged or cut short; ConfigError for wrong options."""

    @property
    @abstractmethod
    def num_units(self) -> int:
        """Fixed ranges of the input, each of which becomes a shard."""

    @abstractmethod
    def unit(self, index: int) -> Iterator[Captured]:
        """The texts of a unit, the same each time. Raises CorpusError with the place of what is wrong."""

    @abstractmethod
    def unit_sha256(self, index: int) -> str:
        """Digest of what the unit is made from."""

    @abstractmethod
    def check_unchanged(self) -> None:
        """Raises CorpusError where a file is another one than was opened."""

    @property
    @abstractmethod
    def pin(self) -> dict[str, Any]:
        """sha256, files, rows and bytes of the input."""

    @property
    def facts(self) -> dict[str, Any]:
        """What the header is to say of it: how it was rounded, and what else it does not know."""
        return {}

    @property
    def num_classes(self) -> int | None:
        """Classes that it has, where it says so."""
        return None

    @property
    def top_k(self) -> int | None:
        """Entries of a position, where it says so."""
        return None

    @property
    def short_rows(self) -> bool:
        """Whether positions have fewer entries by the format's own rule."""
        return False
