"""A process that is killed at a step of the system: SIGKILL before and after each change that it makes to a folder.

Commands run in forked children. A step is making, writing, renaming, exchanging or deleting a file or a folder, and
setting its time; of a write there is also the half of it.
"""

import os
import signal
import time
import traceback
from collections.abc import Callable
from pathlib import Path
from typing import Any

__all__ = ["Killed", "child", "ended"]

PLAIN = ("unlink", "rename", "replace", "mkdir", "rmdir", "utime", "link", "ftruncate")


class Killed:
    """Counts the steps of this process under a folder, and ends it at one of them.

    Args:
        under: The folder.
        at: The step, from 1; 0 kills nothing.
        told: Where the number of steps is written.
    """

    def __init__(self, under: Path, at: int, told: Path) -> None:
        self.under, self.at, self.told, self.steps = str(under), at, told, 0

    def step(self) -> None:
        self.steps += 1
        if self.steps == self.at:
            os.kill(os.getpid(), signal.SIGKILL)

    def install(self) -> None:
        from filelock import _soft, _util

        for name in PLAIN:
            setattr(os, name, self._around(getattr(os, name)))
        exchange = self._around(_util.exchange_names)
        _util.exchange_names = exchange
        _soft.exchange_names = exchange  # type: ignore[attr-defined]
        real_open, real_write = os.open, os.write

        def opening(path: Any, flags: int, *arguments: Any, **settings: Any) -> int:
            if not flags & os.O_CREAT or not self._meant(path):
                return real_open(path, flags, *arguments, **settings)
            return int(self._around(real_open)(path, flags, *arguments, **settings))

        def writing(descriptor: int, data: Any) -> int:
            if not self._meant(descriptor):
                return real_write(descriptor, data)
            self.step()
            half = real_write(descriptor, data[: len(data) // 2])
            self.step()
            rest = real_write(descriptor, data[half:])
            self.step()
            return half + rest

        os.open, os.write = opening, writing

    def _around(self, real: Callable[..., Any]) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            if not self._meant(arguments[0]):
                return real(*arguments, **settings)
            self.step()
            result = real(*arguments, **settings)
            self.step()
            return result

        return call

    def _meant(self, path: Any) -> bool:
        try:
            name = os.readlink(f"/proc/self/fd/{path}") if isinstance(path, int) else os.fsdecode(path)
        except OSError:
            return False
        return name.startswith(self.under)


def child(work: Callable[[], object], killed: Killed | None = None) -> int:
    """Start `work` in a child; its number. Exit status: 0, or 1 after an error, which is printed."""
    pid = os.fork()
    if pid:
        return pid
    status = 1
    try:
        if killed is not None:
            killed.install()
        work()
        status = 0
    except BaseException:
        traceback.print_exc()
    finally:
        if killed is not None:
            killed.at = 0
            killed.told.write_text(str(killed.steps))
        os._exit(status)


def ended(pid: int, within_s: float) -> int:
    """Its exit status, or minus the signal. Raises TimeoutError, and kills it, where it does not end in time."""
    end = time.monotonic() + within_s
    while (found := os.waitpid(pid, os.WNOHANG))[0] == 0:
        if time.monotonic() > end:
            os.kill(pid, signal.SIGKILL)
            os.waitpid(pid, 0)
            raise TimeoutError(f"process {pid} ran for {within_s} s")
        time.sleep(0.002)
    return os.waitstatus_to_exitcode(found[1])
