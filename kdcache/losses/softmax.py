"""SharedSoftmax: one softmax of a block of logits, compared with several references and turned into a gradient.

With q = softmax(y), any function of log q has by y the gradient slope_j − q_j · Σ slopes, where slope = ∂/∂log q: a
multiple of q in each row plus corrections at the compared classes. A tail, one class that stands for many, gives its
classes slope_tail · q_j / q_tail: another multiple of q. So of the exponentials u = exp(y − largest y) a sum and a
product are taken, and all else has the size of the entries.

The tail's mass is the sum of its own probabilities, never 1 − Σ entries, which has no correct digit left once a
student puts 1 − 1e-7 on the entries.

The softmax compared is that of the V classes; columns above them have their price (surplus.py), whose gradient at the
classes is a multiple of q too.

P positions, E entries, V classes, X columns above them, C compared classes.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdcache.losses.reference import Reference
from kdcache.losses.surplus import Surplus

__all__ = ["MASKED", "SharedSoftmax", "smallest"]

MASKED = -1e4
"""Of a class that a student masks, relative to its largest logit: its probability is 0, times its logarithm too."""


class SharedSoftmax:
    """Made before the logits are overwritten; `exponentials` comes next, then `normalise`, `pairs` and `add_gradient_`.

    surplus_PX: logits above the classes, None for none. references: at most one of them with a tail. pairs: teacher and
    student on the classes of each reference. surplus: of the columns above; None where there are none.
    """

    def __init__(
        self,
        logits_PV: Tensor,
        surplus_PX: Tensor | None,
        maximum_P1: Tensor,
        temperature: float,
        references: Sequence[Reference],
    ) -> None:
        self.temperature, self.references = temperature, references
        self.surplus: Surplus | None = None
        self._shift_P1, self._surplus_PX = maximum_P1 / -temperature, surplus_PX
        self._y = [
            torch.add(self._shift_P1, r.entries_of(logits_PV), alpha=1 / temperature).clamp_(min=MASKED / temperature)
            for r in references
        ]

    def exponentials(self, logits_PV: Tensor, out: Tensor) -> Tensor:
        """exp(logits / T − the largest of the row), into `out`."""
        return torch.add(self._shift_P1, logits_PV, alpha=1 / self.temperature, out=out).exp_()

    def normalise(self, u_PV: Tensor) -> None:
        """Take the exponentials; those of a tail's entries are set to 0."""
        self._u_PV = u_PV
        self._coarse = next((k for k, reference in enumerate(self.references) if reference.tail), None)
        if self._coarse is None:
            self._total_P1 = u_PV.sum(-1, keepdim=True)
        else:
            coarse = self.references[self._coarse]
            assert coarse.ids_PE is not None
            assert coarse.padding_PC is not None
            self._entries_u_PE = self._y[self._coarse].exp().masked_fill_(coarse.padding_PC[:, :-1], 0.0)
            u_PV.scatter_(1, coarse.ids_PE, 0.0)
            self._tail_P1 = u_PV.sum(-1, keepdim=True).clamp_(min=smallest(u_PV))
            self._total_P1 = self._tail_P1 + self._entries_u_PE.sum(-1, keepdim=True)
        log_total_P1 = self._total_P1.log()
        if self._surplus_PX is not None:
            y_PX = torch.add(self._shift_P1, self._surplus_PX, alpha=1 / self.temperature)
            self.surplus = Surplus(y_PX, log_total_P1)
        self.pairs = []
        for reference, y_PE in zip(self.references, self._y, strict=True):
            log_q_PC = y_PE.sub_(log_total_P1)
            if reference.tail:
                log_q_PC = torch.cat([log_q_PC, self._tail_P1.log() - log_total_P1], 1)
            self.pairs.append(reference.compare(log_q_PC))

    def add_gradient_(self, gradient_PV: Tensor, slopes: Sequence[Tensor], priced_P1: Tensor | None = None) -> None:
        """Add the gradient by y. slopes: by log q of each reference's compared classes, [P, C] each.

        gradient_PV may be the exponentials themselves, which then become the gradient. priced_P1: how often each
        position pays the price of the surplus columns.
        """
        sums = [slopes_PC.sum(-1, keepdim=True) for slopes_PC in slopes]
        if self.surplus is not None:
            assert priced_P1 is not None
            sums.append(priced_P1 * self.surplus.share_P1)
        own_P1 = multiple_P1 = (sums[0] if len(sums) == 1 else torch.stack(sums).sum(0)) / -self._total_P1
        if self._coarse is not None:
            # q_tail may be so small that this ratio is none of the dtype's numbers.
            limit = torch.finfo(multiple_P1.dtype).max
            own_P1 = (multiple_P1 + slopes[self._coarse][:, -1:] / self._tail_P1).clamp_(-limit, limit)
        if gradient_PV is self._u_PV:
            gradient_PV *= own_P1
        else:
            gradient_PV.addcmul_(self._u_PV, own_P1)
        for reference, slopes_PC in zip(self.references, slopes, strict=True):
            if reference.mixture_PV is not None:
                gradient_PV.addcmul_(reference.mixture_PV, slopes_PC)
                continue
            if reference.ids_PE is None:
                gradient_PV += slopes_PC
                continue
            if reference.tail:
                # The tail's sum needed the entries at 0: their share of the multiple comes back here, once each.
                slopes_PC = slopes_PC[:, :-1] + multiple_P1 * self._entries_u_PE
            gradient_PV.scatter_add_(1, reference.ids_PE, slopes_PC)


def smallest(values: Tensor) -> float:
    """Where an empty or vanishing tail stops: its log stays finite, its mass is 0 as far as any sum can tell."""
    return torch.finfo(values.dtype).tiny
