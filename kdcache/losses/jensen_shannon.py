"""Generalised Jensen-Shannon divergence β KL(teacher ‖ m) + (1 − β) KL(student ‖ m), m = β p + (1 − β) q.

Lin 1991; in this form Agarwal et al. 2024 (GKD, arXiv 2306.13649). Bounded by log 2 at β = 1/2. Divided by β it tends
to forward KL as β → 0, divided by 1 − β to reverse KL as β → 1; at 0 and 1 themselves it is 0 and refused.

P positions, C compared classes.
"""

from typing import TYPE_CHECKING, Annotated, Literal

from kdcache.losses.divergence import Divergence, Range

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.losses.reference import Pair

__all__ = ["JensenShannon"]


BETA = Range(lambda b: 0 < b < 1, "0 < beta < 1: towards 0 it is beta · forward_kl, towards 1 (1 − beta) · reverse_kl")


class JensenShannon(Divergence):
    """The generalised Jensen-Shannon divergence.

    beta: the teacher's share of the mixture.
    """

    kind: Literal["jsd"] = "jsd"
    beta: Annotated[float, BETA] = 0.5

    def summands(self, pair: "Pair") -> "Tensor":
        log_m_PC = self._log_mixture(pair)
        teacher_PC = pair.p_PC * (pair.log_p_PC - log_m_PC)
        student_PC = pair.q_PC * (pair.log_q_PC - log_m_PC)
        return self.beta * teacher_PC + (1 - self.beta) * student_PC

    def slopes(self, pair: "Pair") -> "Tensor":
        return (1 - self.beta) * pair.q_PC * (pair.log_q_PC - self._log_mixture(pair))

    def _log_mixture(self, pair: "Pair") -> "Tensor":
        """Where both underflow to 0 its product is 0 too, as long as it is finite."""
        mixture_PC = self.beta * pair.p_PC + (1 - self.beta) * pair.q_PC
        return mixture_PC.clamp(min=pair.smallest).log()
