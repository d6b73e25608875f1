"""Basis: what int8 coefficients of a position stand for, the teacher's logits of every class.

    logits = cap(mean + basis · coefficients)        cap(x) = c tanh(x / c) for a soft-cap c, else x

The columns of the basis are the principal directions of a teacher's logits (calibration.py), each times the step of
its coefficient. One basis serves all records of a cache: V (2 r + 4) bytes, 57 MB for 49,152 classes at rank 576.
Integers up to 127 times float16 are exact, so on a GPU the product runs in float16; on the CPU, whose float16
products are slow, in float32.

P positions, V classes, R directions.
"""

from dataclasses import dataclass, field
from functools import cached_property

import torch
from torch import Tensor

from kdcache.targets.precision import full_precision

__all__ = ["Basis"]


@dataclass(frozen=True, eq=False)
class Basis:
    """basis_VR: float16. mean_V: float32, −inf of a class that is never given.

    Without a soft-cap the logits of a row are right up to a constant.
    """

    basis_VR: Tensor
    mean_V: Tensor
    soft_cap: float | None = None
    _elsewhere: dict[torch.device, "Basis"] = field(default_factory=dict, repr=False)
    _product: list[Tensor] = field(default_factory=list, repr=False)

    @property
    def num_classes(self) -> int:
        return self.basis_VR.shape[0]

    @property
    def rank(self) -> int:
        return self.basis_VR.shape[1]

    @cached_property
    def never_V(self) -> Tensor | None:
        """Which classes are never given, bool; None where there are none."""
        never_V = self.mean_V.isneginf()
        return never_V if bool(never_V.any()) else None

    def to(self, device: torch.device | str) -> "Basis":
        """The basis there: copied once, however many batches ask."""
        device = torch.empty(0, device=device).device
        if device == self.basis_VR.device:
            return self
        if device not in self._elsewhere:
            self._elsewhere[device] = Basis(self.basis_VR.to(device), self.mean_V.to(device), self.soft_cap)
        return self._elsewhere[device]

    def logits(self, coefficients_PR: Tensor) -> Tensor:
        """float32 [P, V]. coefficients_PR: int8, on the basis' device; call it on a chunk of positions."""
        matrix_RV = self._matrix_RV()
        with full_precision(matrix_RV.device):
            if matrix_RV.dtype == torch.float32:
                logits_PV = torch.addmm(self.mean_V, coefficients_PR.float(), matrix_RV)
            else:
                logits_PV = (coefficients_PR.to(matrix_RV.dtype) @ matrix_RV).float().add_(self.mean_V)
        if self.soft_cap is not None:
            logits_PV.div_(self.soft_cap).tanh_().mul_(self.soft_cap)
            if self.never_V is not None:
                logits_PV.masked_fill_(self.never_V, -torch.inf)
        return logits_PV

    def _matrix_RV(self) -> Tensor:
        """In the dtype of the product; made at the first use."""
        if not self._product:
            on_cpu = self.basis_VR.device.type == "cpu"
            self._product.append((self.basis_VR.float() if on_cpu else self.basis_VR).T)
        return self._product[0]
