"""FactoredTargets: some entries of each distribution, the tail's mass, and how the other classes share it.

P positions, V classes, R directions of the basis.
"""

from dataclasses import dataclass, replace
from typing import Self

import torch
from torch import Tensor

from kdcache.targets.basis import Basis
from kdcache.targets.sparse_targets import SparseTargets
from kdcache.targets.whole import factored_log_probs, factored_probs

__all__ = ["FactoredTargets"]


@dataclass(frozen=True, kw_only=True)
class FactoredTargets(SparseTargets):
    """coefficients_PR: int8, which stand for logits in the basis. tail: "factored", or "sampled" where there is a
    sample too."""

    coefficients_PR: Tensor
    basis: Basis
    knows_every_class = True

    def weighs(self, temperature: float) -> bool:
        """A sample is the better of the two up to T = 1."""
        return self.draws and temperature <= 1

    def tail_logits(self) -> Tensor:
        """Logits of every class as the coefficients have them, float32 [P, V]; those of the tail count."""
        return self.basis.logits(self.coefficients_PR)

    def dense_log_probs(self, temperature: float) -> Tensor:
        return factored_log_probs(self, temperature)

    def dense_probs(self, temperature: float) -> tuple[Tensor, Tensor]:
        return factored_probs(self, temperature)

    def to(self, device: torch.device | str) -> Self:
        return replace(super().to(device), basis=self.basis.to(device))
