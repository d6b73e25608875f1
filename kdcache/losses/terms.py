"""LossTerms: a weighted sum of terms, its value and its closed-form gradient on a chunk of logits.

With y = z / T and q = softmax(y), the gradient of every term is a multiple of q in each row plus corrections at a few
classes (the entries, the label); for a coarsened record the multiple differs between entries and tail. So terms of
one temperature share one softmax, and a chunk is passed over in place by log_softmax, exp, (for a tail: sum) and one
product. Terms of a second temperature take a second chunk of memory.

The tail's mass is the sum of its own probabilities, never 1 − Σ entries, which has no correct digit left once a
student puts 1 − 1e-7 on the entries. Values are sums over positions: whoever knows the global batch divides them.

P positions, E entries, V classes, K terms.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdcache.config import TermConfig
from kdcache.losses.divergence import KINDS, smallest
from kdcache.losses.reference import Reference
from kdcache.losses.supervision import Supervision
from kdcache.targets.record import TeacherTargets

__all__ = ["LossTerms"]


class LossTerms:
    """names: one per term, for logs, such as ("forward_kl@2", "cross_entropy")."""

    def __init__(self, terms: Sequence[TermConfig], num_classes: int) -> None:
        self.terms = tuple(terms)
        self.num_classes = num_classes
        self.names = tuple(t.name if t.name == "cross_entropy" else f"{t.kind}@{t.temperature:g}" for t in self.terms)
        self._scales = [t.weight * (t.temperature**2 if t.temperature_squared else 1.0) for t in self.terms]
        self._groups: dict[float, list[int]] = {}
        for k, term in enumerate(self.terms):
            self._groups.setdefault(term.temperature, []).append(k)

    def total(self, sums_K: Tensor) -> Tensor:
        """The loss, a sum over positions: Σ weight · (T² or 1) · sum of the plain term."""
        return sum((scale * sums_K[k] for k, scale in enumerate(self._scales)), start=sums_K.new_zeros(()))

    def value_and_gradient_(self, logits_PV: Tensor, supervision: Supervision) -> Tensor:
        """Sums of the plain terms over the positions, float64 [K], nats; logits_PV becomes the gradient of `total`.

        logits_PV: float32 or float64 [P, num_classes].
        """
        sums_K = logits_PV.new_zeros(len(self.terms), dtype=torch.float64)
        *others, last = self._groups.items()
        gradients = []
        for temperature, members in others:
            scaled_PV = logits_PV / temperature
            self._group_(scaled_PV, temperature, members, supervision, sums_K)
            gradients.append(scaled_PV)
        temperature, members = last
        if temperature != 1:
            logits_PV.mul_(1 / temperature)
        self._group_(logits_PV, temperature, members, supervision, sums_K)
        for gradient_PV in gradients:
            logits_PV += gradient_PV
        return sums_K

    def _group_(
        self, y_PV: Tensor, temperature: float, members: list[int], supervision: Supervision, sums_K: Tensor
    ) -> None:
        """Terms of one temperature: their sums into sums_K, their gradient by the raw logits into y_PV."""
        labels_P1 = supervision.labels_P[:, None]
        log_q_PV = torch.log_softmax(y_PV, -1, out=y_PV)
        label_log_q_P1 = log_q_PV.gather(1, labels_P1)
        divergences, label_scale = [], 0.0
        for k in members:
            if self.terms[k].name == "divergence":
                divergences.append(k)
            else:
                label_scale += self._scales[k]
                sums_K[k] = -label_log_q_P1.sum(dtype=torch.float64)
        if divergences:
            self._divergences_(log_q_PV, temperature, divergences, label_scale, supervision.targets, sums_K)
        else:
            q_PV = log_q_PV.exp_()
            if label_scale != 1:
                q_PV *= label_scale
        if label_scale:
            y_PV.scatter_add_(1, labels_P1, torch.full_like(label_log_q_P1, -label_scale))

    def _divergences_(
        self,
        log_q_PV: Tensor,
        temperature: float,
        members: list[int],
        label_scale: float,
        targets: TeacherTargets | None,
        sums_K: Tensor,
    ) -> None:
        """log_q_PV becomes label_scale · q + the divergences' gradient by the raw logits."""
        assert targets is not None
        reference = Reference.of(targets, temperature, "normalised", log_q_PV.dtype)
        log_q_PE, log_q_tail_P = reference.entries_of(log_q_PV), None
        if reference.tail_P is not None and reference.ids_PE is not None:
            q_PV = log_q_PV.scatter_(1, reference.ids_PE, -torch.inf).exp_()
            log_q_tail_P = q_PV.sum(-1).clamp_(min=smallest(q_PV)).log_()
        uniform_P = torch.full_like(reference.negative_entropy_P, label_scale)
        tail_P = torch.zeros_like(uniform_P)
        entries_PE = torch.zeros_like(reference.probs_PE)
        for k in members:
            kind, scale = KINDS[self.terms[k].kind](), self._scales[k] / temperature
            sums_K[k] = kind.value(reference, log_q_PE, log_q_tail_P).sum(dtype=torch.float64)
            slopes = kind.slopes(reference, log_q_PE, log_q_tail_P)
            uniform_P += scale * slopes.uniform_P
            entries_PE += scale * slopes.entries_PE
            if slopes.tail_P is not None:
                tail_P += scale * slopes.tail_P
        if log_q_tail_P is None:
            q_PV = log_q_PV.exp_()
        elif reference.used_PE is not None:
            # The tail's sum needed the entries at 0 in q: their share comes back here, once each.
            entries_PE += uniform_P[:, None] * log_q_PE.exp() * reference.used_PE
        q_PV *= (uniform_P + tail_P)[:, None]
        if reference.ids_PE is None:
            q_PV += entries_PE
        else:
            q_PV.scatter_add_(1, reference.ids_PE, entries_PE)
