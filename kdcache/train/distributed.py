"""How the ranks of a run meet, and who speaks when they fail.

When a rank fails, the others fail too, on a broken connection; the first to reach the common store reports, the
rest leave quietly with its exit status.
"""

import logging
import os
import socket
import warnings
from collections.abc import Callable, Iterator, Mapping, Sequence
from contextlib import contextmanager
from typing import Any

from kdcache.errors import ConfigError, KdcacheError, TrainError
from kdcache.launcher import World

__all__ = [
    "STATUS",
    "check_address",
    "check_same_caches",
    "connect",
    "default_store",
    "disconnect",
    "first_to_fail",
    "free_port",
    "on_first",
    "quiet_deepspeed",
    "status_of_first_failure",
]

FAILURES = "kdcache/failures"
STATUS = "kdcache/status"


def check_address(world: World, environment: Mapping[str, str] = os.environ) -> None:
    """Raises ConfigError for ranks of srun that have not been told where to meet."""
    if world.size > 1 and "MASTER_ADDR" not in environment and "RANK" not in environment:
        raise ConfigError(f"got {world.size} srun tasks without MASTER_ADDR, expected it to name the first node")


def free_port() -> int:
    with socket.socket() as listener:
        listener.bind(("127.0.0.1", 0))
        return listener.getsockname()[1]


def connect(world: World, device: str) -> None:
    """Start torch.distributed through DeepSpeed, quietly. device: "cpu" or "cuda".

    On a CPU DeepSpeed would first compile a shared-memory op (about 70 s, and it needs a compiler) that only its
    inference uses; an empty table of compatible ops keeps it from that. The ranks of a host share its cores.
    """
    check_address(world)
    os.environ.update(RANK=str(world.rank), WORLD_SIZE=str(world.size), LOCAL_RANK=str(world.local_rank))
    os.environ.setdefault("MASTER_ADDR", "127.0.0.1")
    if world.size == 1:
        os.environ["MASTER_PORT"] = str(free_port())
    os.environ.setdefault("MASTER_PORT", "29500")
    os.environ["DS_ACCELERATOR"] = device
    warnings.filterwarnings("ignore", category=FutureWarning, module=r"torch\.distributed")
    import deepspeed
    import deepspeed.ops
    import torch

    logging.getLogger("DeepSpeed").setLevel(logging.WARNING if world.first else logging.ERROR)
    if device == "cpu":
        deepspeed.ops.__compatible_ops__ = {}
        if "OMP_NUM_THREADS" not in os.environ:
            ranks_here = int(os.environ.get("LOCAL_WORLD_SIZE") or os.environ.get("LOCAL_SIZE") or world.size)
            torch.set_num_threads(max(1, torch.get_num_threads() // ranks_here))
    else:
        torch.cuda.set_device(world.local_rank)
    deepspeed.init_distributed(dist_backend="gloo" if device == "cpu" else "nccl", verbose=False)


@contextmanager
def quiet_deepspeed() -> Iterator[None]:
    """No warnings of DeepSpeed, where they are of no use to anyone."""
    logger = logging.getLogger("DeepSpeed")
    level = logger.level
    logger.setLevel(logging.ERROR)
    try:
        yield
    finally:
        logger.setLevel(level)


def disconnect() -> None:
    import torch.distributed

    if torch.distributed.is_initialized():
        torch.distributed.destroy_process_group()


def on_first(world: World, work: Callable[[], Any]) -> Any:
    """What rank 0 finds, on every rank; a KdcacheError that it meets is raised on all of them."""
    found, fault = None, None
    if world.first:
        try:
            found = work()
        except KdcacheError as error:
            fault = error
    found, fault = world.from_first((found, fault))
    if fault is not None:
        raise fault
    return found


def check_same_caches(world: World, digests: Sequence[str]) -> None:
    """That all ranks have opened the same caches: one in a store or on the Hub may be replaced while they start.

    Raises TrainError on every rank where they have not.
    """
    of_ranks = world.all([*digests])
    for rank, theirs in enumerate(of_ranks):
        for first, other in zip(of_ranks[0], theirs, strict=True):
            if first != other:
                raise TrainError(
                    f"rank 0 has opened the cache {first[:12]}… and rank {rank} {other[:12]}…, expected one: somebody "
                    "replaced it just now; start the run when they are done, or give a revision of the Hub (@COMMIT)"
                )


def default_store() -> Any:
    """The store that all ranks share, on rank 0 or with the launcher."""
    import torch.distributed

    return torch.distributed.distributed_c10d._get_default_store()


def first_to_fail(exit_status: int) -> bool:
    """True for one rank of those that fail: the one that shall report. False when rank 0 has left with the store."""
    import torch.distributed

    if not torch.distributed.is_initialized():
        return True
    try:
        store = default_store()
        first = store.add(FAILURES, 1) == 1
        if first:
            store.set(STATUS, str(exit_status))
    except RuntimeError:
        return False
    return first


def status_of_first_failure() -> int:
    """The exit status of the rank that reported."""

    try:
        store = default_store()
        return int(store.get(STATUS)) if store.check([STATUS]) else 1
    except RuntimeError:
        return 1
