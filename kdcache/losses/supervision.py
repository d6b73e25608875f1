"""Supervision: what the positions of a batch are compared with.

P positions.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.targets.record import TeacherTargets

__all__ = ["Supervision"]


@dataclass(frozen=True)
class Supervision:
    """labels_P: int64. targets: the teacher's records; None in a label-only cache.

    label_logits_P: the teacher's raw logit of each label, for the teacher's own loss; None where it is not known.
    """

    labels_P: Tensor
    targets: TeacherTargets | None = None
    label_logits_P: Tensor | None = None

    @property
    def num_positions(self) -> int:
        return self.labels_P.shape[0]

    def to(self, device: torch.device | str) -> "Supervision":
        return Supervision(
            self.labels_P.to(device),
            None if self.targets is None else self.targets.to(device),
            None if self.label_logits_P is None else self.label_logits_P.to(device),
        )

    def __getitem__(self, index: slice | Tensor) -> "Supervision":
        """What some positions are compared with."""
        return Supervision(
            self.labels_P[index],
            None if self.targets is None else self.targets[index],
            None if self.label_logits_P is None else self.label_logits_P[index],
        )
