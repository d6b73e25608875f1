"""Plan: what the makers and the codec of sparse records have to know of a record kind. No torch here."""

from dataclasses import dataclass
from typing import Literal

from kdcache.targets.curve_spec import CurveSpec

__all__ = ["LogitDtype", "Plan"]

LogitDtype = Literal["uint8", "uint16", "float16", "float32"]


@dataclass(frozen=True)
class Plan:
    """exact_top_k: how many of the largest logits are kept for certain. samples: how many of the others are drawn at
    most. proposals: the temperatures that the draw follows; none where nothing is drawn. curve: where the tail's
    partition curve is stored. logit_dtype: how a kept logit is stored.
    """

    exact_top_k: int
    samples: int
    proposals: tuple[float, ...]
    curve: CurveSpec
    logit_dtype: LogitDtype

    @property
    def most_entries(self) -> int:
        """Of a row: those kept for certain, and of the draws one more than their number where rounding adds it."""
        return self.exact_top_k + self.samples + 2
