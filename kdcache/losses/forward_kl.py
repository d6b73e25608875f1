"""Forward Kullback-Leibler divergence KL(teacher ‖ student) = Σ p (log p − log q).

Hinton, Vinyals, Dean 2015 (section 2) up to the teacher's entropy. For weights of a sample it is the cross-entropy
under the weights minus the teacher's entropy: unbiased where the weights are, and not always above 0 on a single
position.

P positions, C compared classes.
"""

from dataclasses import dataclass

from torch import Tensor

from kdcache.losses.reference import Pair

__all__ = ["ForwardKL", "cross_entropy"]


@dataclass(frozen=True)
class ForwardKL:
    weighable = True
    merges = True

    def value(self, pair: Pair) -> Tensor:
        negative_entropy_P = pair.reference.negative_entropy_P
        if negative_entropy_P is None:
            return (pair.p_PC * (pair.log_p_PC - pair.log_q_PC)).sum(-1)
        return negative_entropy_P + cross_entropy(pair)

    def slopes(self, pair: Pair) -> Tensor:
        return -pair.p_PC


def cross_entropy(pair: Pair) -> Tensor:
    """−Σ p log q, [P], nats."""
    return -(pair.p_PC * pair.log_q_PC).sum(-1)
