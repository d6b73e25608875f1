"""α-β-divergence −1/(αβ) Σ [p^α q^β − α/(α+β) p^(α+β) − β/(α+β) q^(α+β)], for α, β ≥ 0.

Cichocki, Cruces, Amari 2011 (Entropy 13, 134–170); for distillation Wang et al. 2025 (ABKD, arXiv 2505.04560). Its
limits are part of it:

  α = 1, β = 0   forward KL, and 0, 1 reverse KL
  β = 0          1/α² Σ [p^α (log p^α − log q^α) − p^α + q^α], and with the roles of p and q, α and β swapped at α = 0
  α = β = 0      ½ Σ (log p − log q)²
  α = β = 1      ½ Σ (p − q)²

With D_k(x, y) = (e^(kx) − e^(ky)) / k, which tends to x − y, each summand is
(D_{α+β}(log p, log q) − q^β D_α(log p, log q)) / β, and the same with the roles swapped: divided by the larger of α and
β it needs no limit but that of α = β = 0 (with both below 1e-3, float32 loses digits: take 0). At α + β = 1 it is an
f-divergence (times a constant). Above 1 merging classes can make it larger, so that it has no coarse form; below 1 it
has one, though that it is a lower bound there is not known.

P positions, C compared classes.
"""

import math
from typing import TYPE_CHECKING, Annotated, Literal

from kdcache.losses.divergence import Divergence, Range

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.losses.reference import Pair

__all__ = ["AlphaBeta"]


POWER = Range(lambda x: 0 <= x < math.inf, "a finite number of 0 or more")


class AlphaBeta(Divergence):
    """The α-β-divergence.

    alpha: the power of p.
    beta: the power of q.
    """

    kind: Literal["alpha_beta"] = "alpha_beta"
    alpha: Annotated[float, POWER]
    beta: Annotated[float, POWER]

    @property
    def cannot_merge(self) -> str | None:
        return None if self.alpha + self.beta <= 1 + 1e-9 else "alpha + beta above 1"

    def summands(self, pair: "Pair") -> "Tensor":
        first, second, alpha, beta = pair.log_p_PC, pair.log_q_PC, self.alpha, self.beta
        if alpha == beta == 0:
            return (first - second) ** 2
        if alpha > beta:
            first, second, alpha, beta = second, first, beta, alpha
        whole_PC = _power_difference(first, second, alpha + beta)
        return whole_PC - (beta * second).exp() * _power_difference(first, second, alpha)

    def of_sum(self, sum_P: "Tensor", pair: "Pair") -> "Tensor":
        larger = max(self.alpha, self.beta)
        return sum_P / larger if larger else 0.5 * sum_P

    def slopes(self, pair: "Pair") -> "Tensor":
        """q^β (q^α − p^α) / α"""
        return (self.beta * pair.log_q_PC).exp() * _power_difference(pair.log_q_PC, pair.log_p_PC, self.alpha)


def _power_difference(first: "Tensor", second: "Tensor", power: float) -> "Tensor":
    """(e^(power · first) − e^(power · second)) / power without cancellation, first − second at power 0."""
    gap = first - second
    if power == 0:
        return gap
    above = -(power * first).exp() * (-power * gap.clamp(min=0)).expm1()
    below = (power * second).exp() * (power * gap.clamp(max=0)).expm1()
    return above.where(gap > 0, below) / power
