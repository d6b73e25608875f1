"""Which process this is, among how many, and on which device: the one answer for every command.

Ranks come from the command line, from deepspeed or torchrun (RANK, WORLD_SIZE), or from srun (SLURM_PROCID and its
like). The tasks of a Slurm array are ranks where the command line says so. The ranks of a dump never talk to each
other, but where several of them hold one copy of the teacher; those of a training run have the few collectives of
World.
"""

import os
from collections.abc import Mapping
from dataclasses import dataclass, field
from typing import Any

from kdcache.errors import ConfigError

__all__ = ["World", "find_device", "find_world", "lost_a_peer"]

# A batch script without srun sees SLURM_NTASKS too; only a job step has these.
LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)
LOST_PEER = ("Connection closed by peer", "Connection reset by peer", "gloo/transport", "NCCL", "Broken pipe")


def lost_a_peer(error: BaseException) -> bool:
    """Whether it says that another rank is gone."""
    return isinstance(error, RuntimeError) and any(sign in str(error) for sign in LOST_PEER)


@dataclass(frozen=True)
class World:
    """rank: this process's number, from 0. size: how many there are. local_rank: its number on its machine.

    replica: where several processes hold one copy of a teacher, those of this one; it is then the replicas that are
    counted, and this process is the first of its own.
    """

    rank: int = 0
    size: int = 1
    local_rank: int = 0
    replica: Any = field(default=None, compare=False)

    @property
    def word(self) -> str:
        """What is counted: "rank" or "replica"."""
        return "rank" if self.replica is None else "replica"

    @property
    def first(self) -> bool:
        return self.rank == 0

    def share(self, count: int) -> range:
        """Which of `count` units are this rank's: every size-th one, from number rank on."""
        return range(self.rank, count, self.size)

    def sum(self, values: Any) -> Any:
        """All-reduce a tensor in place; it is returned."""
        import torch.distributed

        if self.size > 1:
            torch.distributed.all_reduce(values)
        return values

    def barrier(self) -> None:
        import torch.distributed

        if self.size > 1:
            torch.distributed.barrier()

    def all(self, value: Any) -> list[Any]:
        """Every rank's value, everywhere, in the order of ranks; what pickle takes."""
        import torch.distributed

        found = [value] * self.size
        if self.size > 1:
            torch.distributed.all_gather_object(found, value)
        return found

    def from_first(self, value: Any) -> Any:
        """Rank 0's value, everywhere: numbers, strings, lists and dicts of them."""
        import torch.distributed

        box = [value]
        if self.size > 1:
            torch.distributed.broadcast_object_list(box, src=0)
        return box[0]


def find_world(
    rank: int | None = None, world_size: int | None = None, environment: Mapping[str, str] = os.environ
) -> World | None:
    """The rank that was asked for, else the one that a launcher gave this process; None where neither did.

    Raises ConfigError for half an answer, a rank outside the world, or an array whose numbers are no ranks.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError("got one of --rank and --world-size, expected both or neither")
    if rank is not None and world_size is not None:
        of_array = _is_array(rank, world_size, environment)
        return _checked(rank, world_size, int(environment.get("LOCAL_RANK", 0 if of_array else rank)))
    for rank_key, size_key, local_key in LAUNCHERS:
        if rank_key in environment and size_key in environment:
            found, size = int(environment[rank_key]), int(environment[size_key])
            alone_in_a_step = rank_key == "SLURM_PROCID" and size == 1
            return None if alone_in_a_step else _checked(found, size, int(environment.get(local_key, found)))
    return None


def _is_array(rank: int, size: int, environment: Mapping[str, str]) -> bool:
    """Whether --rank and --world-size are a task's number and the count of a Slurm array. Slurm shows such a task its
    own GPUs alone.

    Raises ConfigError where the array begins at 1 or has gaps: some ranks would be nobody's, and no task would see it.
    """
    number, count, first, last = (environment.get(f"SLURM_ARRAY_TASK_{name}") for name in ("ID", "COUNT", "MIN", "MAX"))
    if number != str(rank) or count != str(size):
        return False
    if first != "0" or last != str(size - 1):
        raise ConfigError(
            f"got --rank {rank} and --world-size {size} of a Slurm array from {first} to {last}, which leaves some "
            f"ranks to nobody, expected --array=0-{size - 1}, or launch/array.slurm, which counts an array's tasks"
        )
    return True


def _checked(rank: int, size: int, local_rank: int) -> World:
    if not 0 <= rank < size:
        raise ConfigError(f"got rank {rank} of {size}, expected a rank from 0 to {size - 1}")
    return World(rank, size, local_rank)


def find_device(asked: str, setting: str = "device:") -> str:
    """ "cuda" or "cpu", of what is asked for: auto, cpu or cuda. Raises ConfigError for cuda without a GPU.

    setting: what the user calls it.
    """
    if asked == "cpu":
        return "cpu"
    import torch

    if torch.cuda.is_available():
        return "cuda"
    if asked == "cuda":
        raise ConfigError(f"got {setting} cuda and no GPU that torch can use, expected {setting} cpu or auto here")
    return "cpu"
