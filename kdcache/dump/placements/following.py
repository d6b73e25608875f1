"""What all ranks of a replica but the first do: load their part of the teacher, and run what they are told to run."""

from typing import Any

import torch

from kdcache.dump.placements.placement import placement_of
from kdcache.dump.placements.replica import Replica
from kdcache.dump.placements.sharded import Sharded
from kdcache.dump.settings import ComputeConfig, TeacherConfig
from kdcache.dump.teacher import own_devices, teacher_folder
from kdcache.dump.teacher_files import check_copy
from kdcache.errors import KdcacheError, TeacherError, one_line
from kdcache.launcher import lost_a_peer
from kdcache.models.last_bit import last_bit_changed
from kdcache.models.registry import register_small_models

__all__ = ["follow"]


def follow(replica: Replica, compute: ComputeConfig) -> None:
    """Do as the first rank of the replica says, until it says that it is done.

    Args:
        replica: Of which this is not the first rank.
        compute: The settings of the dump.

    Raises:
        TeacherError: This rank cannot do its part.
    """
    body: Any = None
    folder = ""
    while (told := replica.hear())[0] != "end":
        word, value = told
        try:
            if word == "load":
                body, folder = _load(replica, compute, *value)
                replica.answer()
            elif word == "compare":
                check_copy(folder, value)
                replica.answer()
            elif word == "forward":
                _run(body, *value)
        except KdcacheError:
            raise
        except Exception as error:
            if lost_a_peer(error):
                raise
            raise TeacherError(
                f"rank {replica.own.rank} cannot {word} its part of the teacher: {type(error).__name__}: "
                f"{one_line(error, 300)}"
            ) from None


def _load(
    replica: Replica, compute: ComputeConfig, class_name: str, teacher: dict[str, Any], threads: int
) -> tuple[Any, str]:
    """The body, and the folder that it is from. teacher: the settings, as the first rank has them."""
    import transformers

    torch.set_num_threads(threads)
    register_small_models()
    config = TeacherConfig.model_validate(teacher)
    placement = placement_of(config)
    assert isinstance(placement, Sharded)
    device = own_devices(config, compute, replica.own)[0]
    model_class, folder = getattr(transformers, class_name), teacher_folder(config)
    return placement.load_with_the_others(model_class, folder, config, device, replica).base_model, folder


@torch.no_grad()
def _run(body: Any, arguments: tuple[Any, ...], named: dict[str, Any], last_bit: torch.Tensor | None) -> None:
    device = next(body.parameters()).device

    def here(value: Any) -> Any:
        return value.to(device) if isinstance(value, torch.Tensor) else value

    arguments, named = tuple(map(here, arguments)), {name: here(value) for name, value in named.items()}
    if last_bit is None:
        body(*arguments, **named)
        return
    with last_bit_changed(body, last_bit):
        body(*arguments, **named)
