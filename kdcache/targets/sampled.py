"""Sampled: the largest logits of a row for certain, and a sample of the rest. The default of a language model.

Small and unbiased, for temperatures up to 1; above, a few drawn classes stand for most of the mass.
"""

from typing import Annotated, Literal, Self

from pydantic import Field as Setting
from pydantic import model_validator

from kdcache.targets.plan import Plan
from kdcache.targets.sparse import Sparse, check_proposals

__all__ = ["Sampled"]


class Sampled(Sparse):
    """The largest logits of a row, and a sample of the other classes.

    exact_top_k: how many of the largest logits are kept for certain.
    samples: how many of the other classes are drawn at most, each with a known inclusion probability.
    proposal_temperatures: the draw follows the mean of the teacher's softmax at these; each must be on the curve.
    logit_dtype: how a kept logit is stored, relative to the row's maximum. "uint16", logarithmic steps, keeps log Z
        to 1e-3; "uint8" saves 3 bytes per position and keeps it to 1e-2; "float16" and "float32" are as they say.
    curve: where the partition curve of the tail is stored, from which other temperatures than the draw's are answered.
    """

    kind: Literal["sampled"] = "sampled"
    exact_top_k: Annotated[int, Setting(ge=0, le=32768)] = 8
    samples: Annotated[int, Setting(ge=0, le=4096)] = 25
    proposal_temperatures: tuple[float, ...] = (1.0,)

    @model_validator(mode="after")
    def _can_be_drawn(self) -> Self:
        if self.samples == 0:
            raise ValueError("got samples 0, expected at least 1: record.kind top_k keeps the largest logits alone")
        check_proposals(self.proposal_temperatures, self.curve)
        return self

    @property
    def plan(self) -> Plan:
        return Plan(self.exact_top_k, self.samples, self.proposal_temperatures, self.curve, self.logit_dtype)
