"""Reference: the teacher's side of a divergence at one temperature, on the classes where it is known.

Three forms, by what the record holds:
  dense        every class is an entry, no tail: divergences are exact
  coarsened    (tail "ghost") the certain entries, and everything else as one class with the exact tail mass. Merging
               classes can only lose information, so an f-divergence is a lower bound of the full one, tight where
               student and teacher spread their tails alike
  weights      entries with the weights of an estimator and no tail: a top-k record renormalised to 1, or a sample

P positions, E entries (padded), V classes.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.targets.record import Estimator, TeacherTargets

__all__ = ["Reference", "teacher_top"]


@dataclass(frozen=True)
class Reference:
    """ids_PE: class of each entry, None = the classes in order (E = V). Padding repeats the row's first class.

    used_PE: False for padding; None where ids_PE is. probs_PE: target probability of each entry, 0 for padding.
    tail_P: mass of the one class that stands for the rest, None = there is no such class. negative_entropy_P:
    Σ p log p, of the teacher's whole distribution for a sample, of this reference otherwise.
    """

    ids_PE: Tensor | None
    used_PE: Tensor | None
    probs_PE: Tensor
    tail_P: Tensor | None
    negative_entropy_P: Tensor

    @classmethod
    def of(cls, targets: TeacherTargets, temperature: float, estimator: Estimator, dtype: torch.dtype) -> "Reference":
        if targets.dense:
            log_probs_PV = targets.dense_log_probs(temperature).to(dtype)
            probs_PV = log_probs_PV.exp()
            return cls(None, None, probs_PV, None, (probs_PV * log_probs_PV).sum(-1))
        used_PE = targets.inclusion_PE > 0
        if targets.tail == "ghost":
            used_PE = targets.certain_PE()
            probs_PE = targets.log_probs(temperature).exp().masked_fill(~used_PE, 0.0).to(dtype)
            tail_P = targets.tail_mass(temperature).to(dtype)
            negative_entropy_P = torch.xlogy(probs_PE, probs_PE).sum(-1) + torch.xlogy(tail_P, tail_P)
        else:
            probs_PE, tail_P = targets.weights(temperature, estimator).to(dtype), None
            if targets.tail == "renormalise":
                negative_entropy_P = torch.xlogy(probs_PE, probs_PE).sum(-1)
            else:
                negative_entropy_P = -targets.entropy(temperature).to(dtype)
        ids_PE = torch.where(used_PE, targets.ids_PE, targets.ids_PE[:, :1])
        return cls(ids_PE, used_PE, probs_PE, tail_P, negative_entropy_P)

    def entries_of(self, values_PV: Tensor) -> Tensor:
        """The entries' columns of these rows, [P, E]."""
        return values_PV if self.ids_PE is None else values_PV.gather(1, self.ids_PE)


def teacher_top(targets: TeacherTargets) -> Tensor:
    """The class the teacher finds likeliest, int64 [P]; of equal ones the first entry."""
    largest_P1 = targets.logits_PE.masked_fill(targets.inclusion_PE == 0, -torch.inf).argmax(-1, keepdim=True)
    return targets.ids_PE.gather(1, largest_P1)[:, 0]
