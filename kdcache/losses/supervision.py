"""Supervision: what the positions of a batch are compared with.

P positions.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdcache.targets.coded import Coded, as_tensor
from kdcache.targets.moving import moved
from kdcache.targets.record import TeacherTargets

if TYPE_CHECKING:
    from kdcache.store.batch import Batch
    from kdcache.tasks.task import Task

__all__ = ["Supervision"]


@dataclass(frozen=True)
class Supervision:
    """What the positions of a batch are compared with.

    A position without a label has cross-entropy 0 and gradient 0, and counts like any other in what a loss is divided
    by.

    Attributes:
        labels_P: The labels, int64; NO_LABEL where there is none.
        records: The teacher's records, decoded or as they are stored; None in a label-only cache.
        features_PH: The teacher's hidden features, float; None where the cache holds none.
    """

    labels_P: Tensor
    records: TeacherTargets | Coded | None = None
    features_PH: Tensor | None = None

    @cached_property
    def targets(self) -> TeacherTargets | None:
        """The teacher's records, decoded once, on the device that they are on."""
        return self.records.targets() if isinstance(self.records, Coded) else self.records

    @classmethod
    def of(cls, batch: "Batch", task: "Task | None" = None) -> "Supervision":
        """What the positions of a batch of a cache are compared with, on the CPU; the records as they are stored.

        Args:
            batch: Examples of the cache.
            task: Its task, where that makes several rows of logits of a position.
        """
        return cls(
            as_tensor(batch.labels if task is None else task.row_labels(batch.labels)),
            None if batch.distribution is None else batch.coded(None if task is None else task.row_targets),
            None if batch.features is None else as_tensor(batch.features),
        )

    @property
    def num_positions(self) -> int:
        return self.labels_P.shape[0]

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Supervision":
        """The same on a device.

        Args:
            device: Where to.
            non_blocking: Return before the copies are done, where they come from pinned memory.
        """
        there: Supervision = moved(
            self, lambda tensor: tensor.to(device, non_blocking=non_blocking), lambda basis: basis.to(device)
        )
        return there

    def __getitem__(self, index: slice | Tensor) -> "Supervision":
        """What some positions are compared with."""
        targets = None if self.targets is None else self.targets[index]
        return Supervision(self.labels_P[index], targets, None if self.features_PH is None else self.features_PH[index])
