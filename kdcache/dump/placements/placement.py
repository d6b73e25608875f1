"""Placement: how one copy of a teacher lies on devices; PLACEMENTS: all of them by name."""

from abc import ABC, abstractmethod
from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from kdcache.registry import Registry

if TYPE_CHECKING:
    from kdcache.dump.placements.replica import Replica
    from kdcache.dump.settings import TeacherConfig

__all__ = ["PLACEMENTS", "Placement", "placement_of"]


class Placement(ABC):
    """How one copy of a teacher lies on devices."""

    def check(self, teacher: "TeacherConfig") -> None:
        """Compare the other settings of a teacher with this.

        Raises:
            ValueError: They do not go together; the message says what was got and what is expected.
        """
        if teacher.ranks_per_replica != 1:
            raise ValueError(
                f"got teacher.ranks_per_replica {teacher.ranks_per_replica} for placement {teacher.placement}, "
                "expected placement: tensor_parallel or zero3, or ranks_per_replica left out"
            )

    def gpus(self, teacher: "TeacherConfig") -> int:
        """How many GPUs of a node one rank takes."""
        return 1

    def ranks(self, teacher: "TeacherConfig") -> int:
        """How many ranks hold one copy."""
        return 1

    def pins(self, teacher: "TeacherConfig") -> dict[str, Any]:
        """What of it decides the bits of a logit, for the header's compute."""
        return {}

    @abstractmethod
    def load(
        self,
        model_class: Any,
        folder: str,
        teacher: "TeacherConfig",
        devices: Sequence[torch.device],
        replica: "Replica | None",
    ) -> Any:
        """Load a model and place it.

        Args:
            model_class: An Auto class of transformers.
            folder: Of the model.
            teacher: The settings.
            devices: This rank's.
            replica: The ranks that hold the copy, of which this is the first; None for one rank.

        Returns:
            A model whose forward, and whose body's and head's, gives what the whole model gives.

        Raises:
            OSError, ValueError, ImportError, KeyError: It does not load, or cannot be placed so.
            TeacherError: Another rank cannot do its part.
        """


PLACEMENTS: Registry[type[Placement]] = Registry(
    "placement",
    {
        "replicate": "kdcache.dump.placements.whole:Replicate",
        "device_map": "kdcache.dump.placements.whole:DeviceMap",
        "tensor_parallel": "kdcache.dump.placements.tensor_parallel:TensorParallel",
        "zero3": "kdcache.dump.placements.zero3:Zero3",
    },
)


def placement_of(teacher: "TeacherConfig") -> Placement:
    """That of these settings."""
    return PLACEMENTS[teacher.placement]()
