"""Supervision: what the positions of a batch are compared with.

P positions.
"""

from collections.abc import Callable
from dataclasses import dataclass
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

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
        targets: The teacher's records; None in a label-only cache.
        features_PH: The teacher's hidden features, float; None where the cache holds none.
    """

    labels_P: Tensor
    targets: TeacherTargets | None = None
    features_PH: Tensor | None = None

    @classmethod
    def of(cls, batch: "Batch", task: "Task | None" = None) -> "Supervision":
        """What the positions of a batch of a cache are compared with, on the CPU.

        Args:
            batch: Examples of the cache.
            task: Its task, where that makes several rows of logits of a position.
        """
        targets = None if batch.distribution is None else batch.targets()
        return cls(
            torch.from_numpy(batch.labels if task is None else task.row_labels(batch.labels)),
            targets if task is None or targets is None else task.row_targets(targets),
            None if batch.features is None else torch.from_numpy(np.array(batch.features)),
        )

    @property
    def num_positions(self) -> int:
        return self.labels_P.shape[0]

    def to(self, device: torch.device | str) -> "Supervision":
        targets = None if self.targets is None else self.targets.to(device)
        return self._each(lambda tensor: tensor.to(device), targets)

    def __getitem__(self, index: slice | Tensor) -> "Supervision":
        """What some positions are compared with."""
        targets = None if self.targets is None else self.targets[index]
        return self._each(lambda tensor: tensor[index], targets)

    def _each(self, function: Callable[[Tensor], Tensor], targets: TeacherTargets | None) -> "Supervision":
        return Supervision(
            function(self.labels_P),
            targets,
            None if self.features_PH is None else function(self.features_PH),
        )
