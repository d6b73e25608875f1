"""Skew Kullback-Leibler divergences: KL to a mixture that holds a share α of the first distribution.

  skew_kl           KL(teacher ‖ m), m = α p + (1 − α) q
  skew_reverse_kl   KL(student ‖ m), m = α q + (1 − α) p

Lee 2001; for distillation Ko, Kim, Chen, Yun 2024 (DistiLLM, arXiv 2402.03898), which uses α = 0.1. Bounded by
log(1/α), where the plain ones (α = 0) are not; α = 1 is 0 everywhere and refused.

P positions, C compared classes.
"""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from kdcache.losses.divergence import Divergence, Range

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.losses.reference import Pair

__all__ = ["SkewKL", "SkewReverseKL"]


SKEW = Range(lambda a: 0 <= a < 1, "0 ≤ alpha < 1: at 1 it is 0 everywhere")


class SkewKL(Divergence):
    """KL(teacher ‖ alpha · teacher + (1 − alpha) · student).

    alpha: the teacher's share of the mixture.
    """

    kind: Literal["skew_kl"] = "skew_kl"
    alpha: Annotated[float, SKEW] = 0.1

    def summands(self, pair: "Pair") -> "Tensor":
        return pair.p_PC * (pair.log_p_PC - self._log_mixture(pair))

    def slopes(self, pair: "Pair") -> "Tensor":
        """−(1 − α) p q / m"""
        return (self.alpha - 1) * pair.p_PC * (pair.log_q_PC - self._log_mixture(pair)).exp()

    def _log_mixture(self, pair: "Pair") -> "Tensor":
        return _log_mixture(self.alpha, pair.log_p_PC, pair.log_q_PC)


class SkewReverseKL(Divergence):
    """KL(student ‖ alpha · student + (1 − alpha) · teacher).

    alpha: the student's share of the mixture.
    """

    kind: Literal["skew_reverse_kl"] = "skew_reverse_kl"
    alpha: Annotated[float, SKEW] = 0.1

    def summands(self, pair: "Pair") -> "Tensor":
        return pair.q_PC * self._log_ratio(pair)

    def slopes(self, pair: "Pair") -> "Tensor":
        """q (log(q / m) − α q / m); the derivative's further + q is the multiple that no softmax feels."""
        log_ratio_PC = self._log_ratio(pair)
        return pair.q_PC * (log_ratio_PC - (log_ratio_PC + _log(self.alpha)).exp())

    def _log_ratio(self, pair: "Pair") -> "Tensor":
        return pair.log_q_PC - _log_mixture(self.alpha, pair.log_q_PC, pair.log_p_PC)


def _log_mixture(alpha: float, log_first_PC: "Tensor", log_second_PC: "Tensor") -> "Tensor":
    """log(α · first + (1 − α) · second), of logarithms: at α = 0 it may be far below the smallest number."""
    if alpha == 0:
        return log_second_PC
    return (log_first_PC + _log(alpha)).logaddexp(log_second_PC + _log(1 - alpha))


def _log(share: float) -> float:
    return math.log(share) if share > 0 else -math.inf
