"""run_train: what `kdcache train` does as one process, as a rank of a launcher, and as the one that starts it.

With --nproc N it starts `deepspeed.launcher.launch`, the process that `deepspeed --num_gpus N` would start after
reading host files, directly: that one hands SIGTERM on to its ranks (the outer one does not), and an import of
DeepSpeed, 2 to 5 s, is saved. Cheap checks come first, so that a mistake costs a second, not a launch of 10 to 20 s.
"""

import base64
import json
import os
import signal
import subprocess
import sys
from collections.abc import Callable
from types import FrameType
from typing import TYPE_CHECKING

from kdcache.errors import ConfigError, KdcacheError, TrainError, one_line
from kdcache.launcher import World, find_device, find_world
from kdcache.train.distributed import free_port, lost_a_peer
from kdcache.train.settings import TrainConfig

if TYPE_CHECKING:
    from kdcache.train.plan import Run

__all__ = ["run_train"]


def run_train(
    config: TrainConfig, *, nproc: int | None, config_path: str, overrides: list[str], force: bool = False
) -> int:
    """Train, and return the exit status. force: take the output over, whoever has it.

    Without a launcher: one process, or nproc local ranks. Ranks that fail after another return its status without a
    word. Raises KdcacheError for the failure that is to be reported.
    """
    world = find_world()
    if world is not None and nproc is not None:
        raise ConfigError(
            f"got --nproc {nproc} under a launcher that started {world.size} ranks, expected one or the other"
        )
    from kdcache.train.plan import plan

    if world is not None:
        return _train_as(world, config.device, lambda: plan(config, force=force))
    run = plan(config, force=force)
    if finished_early(run, nproc or 1):
        return 0
    if nproc is None:
        return _train_as(World(), run.device, lambda: run)
    return _launch(nproc, run, config_path, overrides)


def finished_early(run: "Run", world_size: int) -> bool:
    """Check what can be known without a launch, and whether the run is done already. Raises KdcacheError."""
    from kdcache.students.making import student_folder
    from kdcache.train.output import check_run_output
    from kdcache.train.run import is_finished, open_caches

    check_run_output(run)
    cache, _ = open_caches(run)
    if run.student.path is not None:
        student_folder(run.student)
    run.batches.loader(cache, World(0, world_size)).close()
    return is_finished(run, cache)


def _train_as(world: World, wanted: str, planned: "Callable[[], Run]") -> int:
    """wanted: the device of the settings. planned: gives the run; what is wrong with it is told by one rank alone."""
    from kdcache.train.distributed import connect, disconnect, first_to_fail, status_of_first_failure
    from kdcache.train.run import train

    device = find_device(wanted)
    connect(world, device)
    try:
        train(planned(), world, device)
        disconnect()
        return 0
    except KdcacheError as error:
        if first_to_fail(error.exit_status):
            raise
    except Exception as error:
        if first_to_fail(1):
            raise in_words(error, world) from None
    return status_of_first_failure()


def in_words(error: Exception, world: World) -> Exception:
    """What a user can do about it, where that is known."""
    import torch

    if isinstance(error, torch.OutOfMemoryError):
        return TrainError(
            f"rank {world.rank} ran out of GPU memory; lower micro_batch or loss_chunk, set "
            "student.gradient_checkpointing: true, or take a higher ZeRO stage"
        )
    if _is_of_storage(error):
        return TrainError(
            f"rank {world.rank} cannot read or write a file: {one_line(error)}; the last checkpoint is "
            "kept: free some space or mend the path, and run the same command again"
        )
    if lost_a_peer(error):
        return TrainError(
            f"rank {world.rank} lost another rank, which was killed or ran out of memory; "
            "run the same command again to go on from the last checkpoint"
        )
    return error


def _is_of_storage(error: Exception) -> bool:
    from safetensors import SafetensorError

    if isinstance(error, OSError):
        return not isinstance(error, ConnectionError)
    return isinstance(error, SafetensorError) and "os error" in str(error)


def _launch(nproc: int, run: "Run", config_path: str, overrides: list[str]) -> int:
    """Start the launcher in a session of its own, hand signals on to it, return its exit status."""
    environment = dict(os.environ)
    device = find_device(run.device)
    environment["DS_ACCELERATOR"] = device
    hosts = json.dumps({"localhost": _devices(nproc, device)})
    command = [
        *(sys.executable, "-m", "deepspeed.launcher.launch", "--no_local_rank", "--module", "--log_level=critical"),
        f"--world_info={base64.urlsafe_b64encode(hosts.encode()).decode()}",
        f"--master_port={free_port()}",
        *("kdcache", "train", config_path),
        *(argument for override in overrides for argument in ("-o", override)),
        *(["--force"] if run.force else []),
    ]
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    stopped_by: list[int] = []

    def hand_on(number: int, frame: FrameType | None) -> None:
        stopped_by.append(number)
        process.send_signal(number)

    before = {kind: signal.signal(kind, hand_on) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
    if stopped_by:
        raise TrainError(
            f"stopped by {signal.Signals(stopped_by[0]).name}; "
            "run the same command again to go on from the last checkpoint"
        )
    if status not in (0, 1, 2):
        number = -status if status < 0 else 256 - status
        raise TrainError(
            f"a rank was ended by signal {number} ({'out of memory?' if number == 9 else 'a crash'}); "
            "run the same command again to go on from the last checkpoint"
        )
    return status


def _devices(nproc: int, device: str) -> list[int | str]:
    """The GPUs of the local ranks: the first of CUDA_VISIBLE_DEVICES, or those from 0 on. Raises ConfigError."""
    if device == "cpu":
        return list(range(nproc))
    import torch

    visible = os.environ.get("CUDA_VISIBLE_DEVICES")
    devices: list[int | str] = [*visible.split(",")] if visible else list(range(torch.cuda.device_count()))
    if len(devices) < nproc:
        raise ConfigError(f"got --nproc {nproc} and {len(devices)} GPUs, expected at most one rank per GPU")
    return devices[:nproc]
