"""Coded: records as a cache stores them, as tensors on any device, and the distributions that they stand for.

Stored records take a fifth of the bytes of what losses ask (TeacherTargets pads the entries of every position to those
of the longest, in int64 and float32). So they are what crosses a bus, and they are decoded where they arrive. What a
decoder must know to make its tensors, such as the most entries of a position, is found on the host while the arrays are
numpy's: asking a GPU would wait for all of its work.

P positions.
"""

from collections.abc import Callable, Mapping
from dataclasses import dataclass, field
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kdcache.targets.fields import COUNTS
from kdcache.targets.kind import RecordKind

if TYPE_CHECKING:
    from kdcache.targets.basis import Basis
    from kdcache.targets.record import TeacherTargets

__all__ = ["Coded", "as_tensor", "workable"]


@dataclass(frozen=True, eq=False)
class Coded:
    """Records of P positions as they are stored.

    Attributes:
        kind: What they are.
        arrays: Those of the kind's fields, and `entry_counts` where it has entries; flat, in the stored dtypes.
        num_classes: V.
        facts: What the kind's `facts` found in the arrays.
        basis: Of a calibrated kind.
        then: What is made of the decoded records; None for nothing.
    """

    kind: RecordKind
    arrays: dict[str, Tensor]
    num_classes: int
    facts: Mapping[str, int] = field(default_factory=dict)
    basis: "Basis | None" = None
    then: "Callable[[TeacherTargets], TeacherTargets] | None" = None

    @classmethod
    def of(
        cls,
        kind: RecordKind,
        arrays: Mapping[str, np.ndarray],
        num_classes: int,
        basis: "Basis | None" = None,
        then: "Callable[[TeacherTargets], TeacherTargets] | None" = None,
    ) -> "Coded":
        """Of numpy arrays, those of the kind and any others; they are shared where they may be written to."""
        names = {f.name for f in kind.fields(num_classes, width=1, rank=1)} | {COUNTS["entry"]}
        own = {name: as_tensor(array) for name, array in arrays.items() if name in names}
        return cls(kind, own, num_classes, kind.facts(arrays, num_classes), basis, then)

    def targets(self) -> "TeacherTargets":
        """The distributions, on the device of the arrays; a GPU is asked for nothing."""
        arrays = {name: workable(array) for name, array in self.arrays.items()}
        targets = self.kind.decode(arrays, self.num_classes, self.facts, self.basis)
        return targets if self.then is None else self.then(targets)


def as_tensor(array: np.ndarray) -> Tensor:
    """The same numbers on the CPU; a copy where the array is read-only, which tensors cannot be."""
    return torch.from_numpy(array if array.flags.writeable and array.flags.c_contiguous else array.copy())


def workable(tensor: Tensor) -> Tensor:
    """uint16 as int32 and uint32 as int64, others as they are: torch can hold those, but hardly compute with them."""
    if tensor.dtype == torch.uint16:
        return tensor.view(torch.int16).to(torch.int32).bitwise_and_(0xFFFF)
    if tensor.dtype == torch.uint32:
        return tensor.view(torch.int32).to(torch.int64).bitwise_and_(0xFFFFFFFF)
    return tensor
