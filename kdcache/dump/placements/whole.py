"""Replicate and DeviceMap: one rank holds a whole copy of the teacher, on one device or on several."""

from collections.abc import Sequence
from typing import TYPE_CHECKING, Any

import torch

from kdcache.dump.placements.placement import Placement
from kdcache.models.loading import load_whole

if TYPE_CHECKING:
    from kdcache.dump.placements.replica import Replica
    from kdcache.dump.settings import TeacherConfig

__all__ = ["DeviceMap", "Replicate", "settings_of"]


def settings_of(teacher: "TeacherConfig") -> dict[str, Any]:
    """What every placement tells `load_whole`."""
    return {
        "dtype": getattr(torch, teacher.dtype),
        "attn_implementation": teacher.attention_implementation,
        "trust_remote_code": teacher.trust_remote_code,
    }


class Replicate(Placement):
    """A whole copy on each rank's device."""

    def load(
        self,
        model_class: Any,
        folder: str,
        teacher: "TeacherConfig",
        devices: Sequence[torch.device],
        replica: "Replica | None",
    ) -> Any:
        """As Placement says."""
        return load_whole(model_class, folder, device_map={"": devices[0]}, **settings_of(teacher))


class DeviceMap(Replicate):
    """Its layers spread over the devices of a rank, one device after the other."""

    def gpus(self, teacher: "TeacherConfig") -> int:
        """As Placement says."""
        return teacher.gpus_per_replica

    def load(
        self,
        model_class: Any,
        folder: str,
        teacher: "TeacherConfig",
        devices: Sequence[torch.device],
        replica: "Replica | None",
    ) -> Any:
        """As Placement says."""
        if len(devices) == 1:
            return super().load(model_class, folder, teacher, devices, replica)
        # Room on the devices of this rank alone.
        free = {device.index: torch.cuda.mem_get_info(device)[0] for device in devices}
        room = {index: free.get(index, 0) for index in range(torch.cuda.device_count())}
        return load_whole(model_class, folder, device_map="balanced", max_memory=room, **settings_of(teacher))
