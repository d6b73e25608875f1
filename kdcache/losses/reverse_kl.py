"""Reverse Kullback-Leibler divergence KL(student ‖ teacher) = Σ q (log q − log p).

It seeks modes: a student is charged for what it puts where the teacher has nothing, not for what it leaves out.
Gu, Dong, Wei, Huang 2024 (MiniLLM, arXiv 2306.08543); here of single positions, on the teacher's own text.

P positions, C compared classes.
"""

from typing import TYPE_CHECKING, Literal

from kdcache.losses.divergence import Divergence

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.losses.reference import Pair

__all__ = ["ReverseKL"]


class ReverseKL(Divergence):
    """KL(student ‖ teacher)."""

    kind: Literal["reverse_kl"] = "reverse_kl"

    def summands(self, pair: "Pair") -> "Tensor":
        return self.slopes(pair)

    def slopes(self, pair: "Pair") -> "Tensor":
        """q (log q − log p); the derivative's further + q is the multiple that no softmax feels."""
        return pair.q_PC * (pair.log_q_PC - pair.log_p_PC)
