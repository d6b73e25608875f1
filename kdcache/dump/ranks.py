"""Which process this is. Ranks of a dump never talk to each other: they only need to know which units are theirs."""

import os
from collections.abc import Mapping
from dataclasses import dataclass

from kdcache.errors import ConfigError

__all__ = ["Rank", "find_rank"]

# A batch script without srun sees SLURM_NTASKS too; only a job step has these.
LAUNCHERS = (
    ("RANK", "WORLD_SIZE", "LOCAL_RANK"),
    ("SLURM_PROCID", "SLURM_STEP_NUM_TASKS", "SLURM_LOCALID"),
)


@dataclass(frozen=True)
class Rank:
    rank: int = 0
    world_size: int = 1
    local_rank: int = 0

    def units(self, num_units: int) -> range:
        """The work units of this rank: rank, rank + world_size, …"""
        return range(self.rank, num_units, self.world_size)


def find_rank(rank: int | None, world_size: int | None, environment: Mapping[str, str] = os.environ) -> Rank:
    """From --rank and --world-size, else from deepspeed or torchrun, else from srun, else one process.

    Raises ConfigError for half an answer or a rank outside the world.
    """
    if (rank is None) != (world_size is None):
        raise ConfigError("got one of --rank and --world-size, expected both or neither")
    if rank is not None and world_size is not None:
        return _checked(rank, world_size, int(environment.get("LOCAL_RANK", rank)))
    for rank_key, size_key, local_key in LAUNCHERS:
        if rank_key in environment and size_key in environment:
            found = int(environment[rank_key])
            return _checked(found, int(environment[size_key]), int(environment.get(local_key, found)))
    return Rank()


def _checked(rank: int, world_size: int, local_rank: int) -> Rank:
    if not 0 <= rank < world_size:
        raise ConfigError(f"got rank {rank} of {world_size}, expected a rank from 0 to {world_size - 1}")
    return Rank(rank, world_size, local_rank)
