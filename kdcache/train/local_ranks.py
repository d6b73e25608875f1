"""The ranks of `kdcache train --nproc N`: started through DeepSpeed's launcher, told of signals, and waited for.

`deepspeed.launcher.launch`, the process that `deepspeed --num_gpus N` would start after reading host files, is started
directly, in a session of its own; an import of DeepSpeed, 2 to 5 s, is saved.
"""

import base64
import contextlib
import json
import os
import signal
import subprocess
import sys
from types import FrameType
from typing import TYPE_CHECKING

import psutil

from kdcache.errors import ConfigError, RunStoppedError, TrainError
from kdcache.launcher import find_device
from kdcache.train.ancestors import STARTED_BY, mark_of
from kdcache.train.distributed import free_port
from kdcache.train.leaving import how_to_go_on

if TYPE_CHECKING:
    from kdcache.train.plan import Run

__all__ = ["start_ranks"]


def start_ranks(nproc: int, run: "Run", config_path: str, overrides: list[str]) -> int:
    """Start the launcher, hand signals on to its ranks, and return its exit status. Raises TrainError for a kill."""
    device = find_device(run.device)
    hosts = json.dumps({"localhost": _devices(nproc, device)})
    command = [
        *(sys.executable, "-m", "deepspeed.launcher.launch", "--no_local_rank", "--module", "--log_level=critical"),
        f"--world_info={base64.urlsafe_b64encode(hosts.encode()).decode()}",
        f"--master_port={free_port()}",
        *("kdcache", "train", config_path),
        *(argument for override in overrides for argument in ("-o", override)),
        *(["--force"] if run.force else []),
    ]
    environment = os.environ | {"DS_ACCELERATOR": device, STARTED_BY: mark_of(os.getpid())}
    process = subprocess.Popen(command, env=environment, stdin=subprocess.DEVNULL, start_new_session=True)
    signals = _Signals(process)
    before = {kind: signal.signal(kind, signals.hand_on) for kind in (signal.SIGINT, signal.SIGTERM)}
    try:
        status = process.wait()
    finally:
        for kind, handler in before.items():
            signal.signal(kind, handler)
    if status in (0, RunStoppedError.exit_status):
        return status
    if signals.first is not None:
        raise TrainError(f"ended by {signals.first}, before the checkpoint of a step; {how_to_go_on(run.output)}")
    if status in (1, 2):
        return status
    number = -status if status < 0 else 256 - status
    raise TrainError(
        f"a rank or its launcher was ended by signal {number} ({'out of memory?' if number == 9 else 'a crash'}); "
        f"{how_to_go_on(run.output)}"
    )


class _Signals:
    """Hands the first signal on to the ranks themselves, and ends all of them at a second one.

    DeepSpeed's launcher tells its ranks one after the other, and kills each that takes more than 30 s: too little for a
    large checkpoint, which all ranks write together.
    """

    def __init__(self, process: "subprocess.Popen[bytes]") -> None:
        self.process = process
        self.first: str | None = None
        self.at_once = False

    def hand_on(self, number: int, frame: FrameType | None) -> None:
        self.at_once = self.first is not None
        self.first = self.first or signal.Signals(number).name
        with contextlib.suppress(OSError, psutil.Error):
            if self.at_once:
                os.killpg(self.process.pid, signal.SIGKILL)
                return
            ranks = psutil.Process(self.process.pid).children()
            for rank in ranks:
                rank.send_signal(number)
            if not ranks:
                self.process.send_signal(number)


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
