"""A rank ends when what started it is gone: the launcher above it, and whatever started that.

    kdcache train --nproc ─┐
    deepspeed (the runner) ─┴─▶ deepspeed.launcher.launch ──▶ rank 0, rank 1, …        torchrun ──▶ rank 0, rank 1, …

A launcher that is killed by SIGKILL tells nobody. Its ranks would train on, and write and delete checkpoints under the
run that a user starts next. On Linux the kernel ends a rank with its parent (PR_SET_PDEATHSIG), also one that is
stopped; everywhere a thread looks at the launchers above it twice a second, under 1 ms a look. Ranks that a user
started by hand, from a shell, have no launcher and stay.
"""

import ctypes
import os
import signal
import sys
from collections.abc import Mapping, Sequence
from pathlib import Path

import psutil

__all__ = ["STARTED_BY", "Launchers", "end_with_parent", "is_launcher", "mark_of"]

STARTED_BY = "KDCACHE_STARTED_BY"
"""The environment variable by which `kdcache train --nproc` tells its ranks who it is."""
PROGRAMS = {"deepspeed", "deepspeed.exe", "torchrun", "accelerate", "kdcache"}
PR_SET_PDEATHSIG = 1


def mark_of(pid: int) -> str:
    """A process as its pid and the time of its start, since pids are used again."""
    return f"{pid}:{psutil.Process(pid).create_time()}"


class Launchers:
    """The launchers above this process, found once."""

    def __init__(self, environment: Mapping[str, str] = os.environ) -> None:
        self.found: list[psutil.Process] = []
        self._gone: int | None = None
        marked = environment.get(STARTED_BY)
        if marked is not None:
            pid, _, start = marked.partition(":")
            self._add(int(pid), float(start))
        above = os.getppid()
        self._climb(above)
        if self.found and self.found[-1].pid != above and "CROSS_RANK" in environment and above == 1:
            self._gone = above  # deepspeed's launcher started this rank, and left before it looked
        if any(process.pid == above for process in self.found):
            end_with_parent(above)

    def _add(self, pid: int, start: float) -> None:
        try:
            process = psutil.Process(pid)
            if abs(process.create_time() - start) < 1:
                self.found.append(process)
                return
        except psutil.Error:
            pass
        self._gone = pid

    def _climb(self, pid: int) -> None:
        try:
            process: psutil.Process | None = psutil.Process(pid)
            while process is not None and _is_launcher(process):
                if process not in self.found:
                    self.found.append(process)
                process = process.parent()
        except psutil.Error:
            return

    def gone(self) -> int | None:
        """The pid of a launcher that is not there any more."""
        if self._gone is None:
            self._gone = next((process.pid for process in self.found if not _lives(process)), None)
        return self._gone


def _is_launcher(process: psutil.Process) -> bool:
    return is_launcher(process.cmdline())


def is_launcher(words: Sequence[str]) -> bool:
    """Whether a command line is that of a launcher itself, and not of a shell or a tool that runs one."""
    if not words:
        return False
    if not Path(words[0]).name.startswith("python"):
        return Path(words[0]).name in PROGRAMS
    options = [word for word in words[1:4] if word not in ("-u", "-m")]
    if "-m" in words[1:3]:
        return bool(options) and options[0].split(".")[0] in ("deepspeed", "torch", "kdcache")
    return bool(options) and Path(options[0]).name in PROGRAMS


def _lives(process: psutil.Process) -> bool:
    try:
        return process.is_running() and process.status() != psutil.STATUS_ZOMBIE
    except psutil.NoSuchProcess:
        return False
    except psutil.Error:
        return True


def end_with_parent(parent: int) -> None:
    """Ask the kernel to end this process with its parent, of that pid. Only Linux has such a call."""
    if not sys.platform.startswith("linux"):
        return
    try:
        ctypes.CDLL(None, use_errno=True).prctl(PR_SET_PDEATHSIG, int(signal.SIGKILL), 0, 0, 0)
    except (OSError, AttributeError):
        return
    if os.getppid() != parent:  # it went before the kernel was asked
        os._exit(1)
