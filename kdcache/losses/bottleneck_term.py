"""`{name: bottleneck}`: what a stochastic bottleneck in the student says of the teacher's features (bottleneck.py)."""

import math
from typing import TYPE_CHECKING, Literal, Self

from pydantic import model_validator

from kdcache.config.base import Count
from kdcache.losses.beside_term import BesideTerm, Pass

if TYPE_CHECKING:
    from torch import Tensor, nn

__all__ = ["BottleneckTerm"]


class BottleneckTerm(BesideTerm):
    """What a stochastic bottleneck in the student says of the teacher's hidden features, which the cache must hold.

    width: how many numbers the bottleneck's code has.
    beta: what a nat through the bottleneck costs.
    """

    name: Literal["bottleneck"] = "bottleneck"
    width: Count = 64
    beta: float = 0.01

    @property
    def log_name(self) -> str:
        return f"{self.name}_{self.width}_{self.beta:g}"

    @property
    def needs_teacher(self) -> bool:
        return True

    @property
    def needs_features(self) -> bool:
        return True

    @property
    def needs_hidden(self) -> bool:
        return True

    def make_module(self, student_width: int, feature_width: int | None) -> "nn.Module":
        from kdcache.losses.bottleneck import Bottleneck

        assert feature_width is not None
        return Bottleneck(student_width, feature_width, self.width, self.beta)

    def sum(self, module: "nn.Module | None", seen: Pass) -> "Tensor":
        assert module is not None
        value_P: Tensor = module(seen.hidden_PD, seen.supervision.features_PH)
        return value_P.sum()

    @model_validator(mode="after")
    def _beta_is_a_price(self) -> Self:
        if not 0 <= self.beta < math.inf:
            raise ValueError(f"got beta {self.beta:g} in a bottleneck term, expected a finite number of 0 or more")
        return self
