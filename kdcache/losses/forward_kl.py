"""Forward Kullback-Leibler divergence KL(teacher ‖ student) = Σ p (log p − log q).

For weights of a sample it is the cross-entropy under the weights minus the teacher's entropy: unbiased where the
weights are, and not always above 0 on a single position.

P positions, E entries.
"""

from typing import NamedTuple

from torch import Tensor

from kdcache.losses.reference import Reference

__all__ = ["ForwardKL", "Slopes"]


class Slopes(NamedTuple):
    """dvalue/dy_j = uniform · q_j + (entries_j of an entry, tail · q_j of a class that is none), q = softmax(y)."""

    uniform_P: Tensor
    entries_PE: Tensor
    tail_P: Tensor | None


class ForwardKL:
    def value(self, reference: Reference, log_q_PE: Tensor, log_q_tail_P: Tensor | None) -> Tensor:
        """[P], nats. log_q: the student's log-probabilities of the entries and of the tail."""
        value_P = reference.negative_entropy_P - (reference.probs_PE * log_q_PE).sum(-1)
        if reference.tail_P is not None and log_q_tail_P is not None:
            value_P = value_P - reference.tail_P * log_q_tail_P
        return value_P

    def slopes(self, reference: Reference, log_q_PE: Tensor, log_q_tail_P: Tensor | None) -> Slopes:
        uniform_P = reference.probs_PE.sum(-1)
        if reference.tail_P is None or log_q_tail_P is None:
            return Slopes(uniform_P, -reference.probs_PE, None)
        return Slopes(uniform_P + reference.tail_P, -reference.probs_PE, -reference.tail_P * (-log_q_tail_P).exp())
