"""DenseTargets: distributions of which every class is known.

P positions, V classes.
"""

from dataclasses import dataclass
from typing import Self

import torch
from torch import Tensor

from kdcache.targets.never import LOG_NEVER, is_never
from kdcache.targets.record import TeacherTargets
from kdcache.targets.whole import dot

__all__ = ["DenseTargets"]


@dataclass(frozen=True)
class DenseTargets(TeacherTargets):
    """Every class is a certain entry, in the order of the classes."""

    knows_every_class = True
    wide = True
    is_exact = True

    @classmethod
    def of(cls, relative_PV: Tensor, maximum_P: Tensor) -> Self:
        """relative_PV: raw logits minus maximum_P, −1e30 of a class that is never given."""
        P, V = relative_PV.shape
        return cls(
            ids_PE=torch.arange(V, device=relative_PV.device).expand(P, V),
            relative_PE=relative_PV,
            maximum_P=maximum_P,
            inclusion_PE=maximum_P.new_ones(1, 1).expand(P, V),
            num_certain_P=torch.full((P,), V, device=relative_PV.device),
            num_classes=V,
        )

    def _tail(self, temperature: float) -> None:
        return None

    def label_logits(self, labels_P: Tensor) -> Tensor:
        return self.logits_PE.gather(1, labels_P.clamp(min=0)[:, None])[:, 0]

    def label_losses(self, labels_P: Tensor) -> Tensor:
        relative_PV = self.relative_PE.double()
        return relative_PV.logsumexp(-1) - relative_PV.gather(1, labels_P.clamp(min=0)[:, None])[:, 0]

    def log_probs(self, temperature: float) -> Tensor:
        """In float64 inside: it is exact to 1e-5, and near −100 the rounding of three float32 operations is as much."""
        shift_P1 = temperature * self._relative_log_partition(temperature)[:, None]
        log_probs_PV = ((self.relative_PE.double() - shift_P1) / temperature).to(self.relative_PE.dtype)
        return log_probs_PV.masked_fill_(is_never(self.relative_PE), LOG_NEVER)

    def dense_log_probs(self, temperature: float) -> Tensor:
        log_probs_PV = torch.empty_like(self.relative_PE)
        return log_probs_PV.scatter_(1, self.ids_PE, self.log_probs(temperature))

    def dense_probs(self, temperature: float) -> tuple[Tensor, Tensor]:
        log_p_PV = self.dense_log_probs(temperature)
        p_PV = log_p_PV.exp()
        return p_PV, dot(p_PV, log_p_PV)
