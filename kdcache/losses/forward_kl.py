"""Forward Kullback-Leibler divergence KL(teacher ‖ student) = Σ p (log p − log q).

Hinton, Vinyals, Dean 2015 (section 2) up to the teacher's entropy. For weights of a sample it is the cross-entropy
under the weights minus the teacher's entropy: unbiased where the weights are, and not always above 0 on a single
position.

P positions, C compared classes.
"""

from typing import TYPE_CHECKING, ClassVar, Literal

from kdcache.losses.divergence import Divergence

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.losses.reference import Pair

__all__ = ["ForwardKL", "cross_entropy"]


class ForwardKL(Divergence):
    """KL(teacher ‖ student)."""

    kind: Literal["forward_kl"] = "forward_kl"
    weighable: ClassVar[bool] = True
    is_cross_entropy: ClassVar[bool] = True

    def summands(self, pair: "Pair") -> "Tensor":
        if pair.reference.negative_entropy_P is None:
            return pair.p_PC * (pair.log_p_PC - pair.log_q_PC)
        return pair.p_PC * -pair.log_q_PC

    def of_sum(self, sum_P: "Tensor", pair: "Pair") -> "Tensor":
        negative_entropy_P = pair.reference.negative_entropy_P
        return sum_P if negative_entropy_P is None else negative_entropy_P + sum_P

    def slopes(self, pair: "Pair") -> "Tensor":
        return -pair.p_PC


def cross_entropy(pair: "Pair") -> "Tensor":
    """−Σ p log q, [P], nats."""
    return -pair.masked(pair.p_PC * pair.log_q_PC).sum(-1)
