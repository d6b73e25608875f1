"""A disk that fails: the N-th operation of a command that writes under some folder ends with an error of the system.

Commands run in forked children, which need not import anything; so a run costs what its work costs. Counted are opening
for writing, write, fsync, rename, link and mkdir. Writes that a library makes past Python (safetensors, torch.save) are
not seen here: real small disks (`small_disk`) are for those.
"""

import builtins
import contextlib
import errno
import io
import json
import os
import subprocess
import sys
import traceback
from collections.abc import Callable, Iterator
from dataclasses import dataclass
from pathlib import Path
from typing import Any

from helpers import files_of

__all__ = ["Fault", "Outcome", "forked", "small_disk", "sweep"]

LASTING = {"open", "write", "mkdir"}
"""What a full disk refuses again and again."""


@dataclass(frozen=True)
class Fault:
    """at: which operation fails, from 1. error: how. A full disk stays full; another error comes once."""

    at: int
    error: int = errno.ENOSPC

    @property
    def words(self) -> str:
        return f"{errno.errorcode[self.error]} at operation {self.at}"


@dataclass(frozen=True)
class Outcome:
    """Of a command. operations: what it did, in order. failed: whether the fault came."""

    status: int
    out: str
    operations: list[str]
    failed: bool

    @property
    def lines(self) -> list[str]:
        """What it said as kdcache."""
        return [line for line in self.out.splitlines() if line.startswith("kdcache: ")]


class Failing:
    """Stands before the system in a child."""

    def __init__(self, under: Path, fault: Fault | None) -> None:
        self.under, self.fault = str(under), fault
        self.operations: list[str] = []
        self.failed = False

    def did(self, what: str, path: Any) -> None:
        """Raises OSError where this operation is to fail."""
        name = os.fsdecode(path) if isinstance(path, str | bytes | os.PathLike) else self._name(path)
        if not os.path.abspath(name).startswith(self.under):
            return
        self.operations.append(f"{what} {os.path.relpath(name, self.under)}")
        fault = self.fault
        if fault is None:
            return
        again = self.failed and fault.error == errno.ENOSPC and what in LASTING
        if len(self.operations) == fault.at or again:
            self.failed = True
            raise OSError(fault.error, os.strerror(fault.error), name)

    def _name(self, descriptor: Any) -> str:
        with contextlib.suppress(OSError):
            return os.readlink(f"/proc/self/fd/{int(descriptor)}")
        return "/"

    def install(self) -> None:
        real_open, real_os_open = io.open, os.open

        def opening(file: Any, mode: str = "r", *arguments: Any, **settings: Any) -> Any:
            writes = any(letter in mode for letter in "wax+") and not isinstance(file, int)
            if not writes:
                return real_open(file, mode, *arguments, **settings)
            self.did("open", file)
            return Written(real_open(file, mode, *arguments, **settings), self, file)

        def os_opening(path: Any, flags: int, *arguments: Any, **settings: Any) -> int:
            if flags & (os.O_WRONLY | os.O_RDWR | os.O_CREAT) and settings.get("dir_fd") is None:
                self.did("open", path)
            return real_os_open(path, flags, *arguments, **settings)

        builtins.open = io.open = opening  # type: ignore[assignment]
        os.open = os_opening
        for name, place in (("replace", 1), ("rename", 1), ("link", 1), ("symlink", 1), ("mkdir", 0), ("fsync", 0)):
            setattr(os, name, self._before(getattr(os, name), name, place))
        os.write = self._before(os.write, "write", 0)

    def _before(self, real: Callable[..., Any], name: str, place: int) -> Callable[..., Any]:
        def call(*arguments: Any, **settings: Any) -> Any:
            self.did(name, arguments[place])
            return real(*arguments, **settings)

        return call


class Written:
    """An open file whose writes are counted."""

    def __init__(self, file: Any, failing: Failing, path: Any) -> None:
        self._file, self._failing, self._path = file, failing, path

    def write(self, data: Any) -> Any:
        self._failing.did("write", self._path)
        return self._file.write(data)

    def __getattr__(self, name: str) -> Any:
        return getattr(self._file, name)

    def __enter__(self) -> "Written":
        self._file.__enter__()
        return self

    def __exit__(self, *error: Any) -> Any:
        return self._file.__exit__(*error)

    def __iter__(self) -> Iterator[Any]:
        return iter(self._file)


def forked(
    arguments: list[object], under: Path, fault: Fault | None = None, prepare: Callable[[], object] = lambda: None
) -> Outcome:
    """`kdcache ARGUMENTS` in a child. prepare: done there first."""
    said, told = under.parent / f"{under.name}.said", under.parent / f"{under.name}.told"
    sys.stdout.flush()
    sys.stderr.flush()
    pid = os.fork()
    if pid == 0:
        status = 99
        failing = Failing(under, fault)
        try:
            descriptor = os.open(said, os.O_WRONLY | os.O_CREAT | os.O_TRUNC)
            os.dup2(descriptor, 1)
            os.dup2(descriptor, 2)
            sys.stdout, sys.stderr = (io.TextIOWrapper(io.FileIO(n, "w"), line_buffering=True) for n in (1, 2))
            prepare()
            failing.install()
            status = _main(arguments)
        except BaseException:
            traceback.print_exc()
        finally:
            failing.fault = None
            told.write_text(json.dumps({"operations": failing.operations, "failed": failing.failed}))
            sys.stderr.flush()
            os._exit(status)
    status = os.waitstatus_to_exitcode(os.waitpid(pid, 0)[1])
    return Outcome(status, said.read_text(errors="replace"), **json.loads(told.read_text()))


def _main(arguments: list[object]) -> int:
    import torch

    from kdcache.cli import main

    torch.set_num_threads(1)
    sys.argv = ["kdcache", *map(str, arguments)]
    try:
        main()
    except SystemExit as stop:
        return int(stop.code or 0)
    return 0


@dataclass
class Counts:
    """What a sweep found, for the table."""

    runs: int = 0
    failed: int = 0
    unharmed: int = 0


def sweep(
    start: Callable[[], Path],
    command: Callable[[Path], list[object]],
    calm: dict[str, bytes],
    faults: Callable[[int], list[Fault]],
    *,
    contents: Callable[[Path], dict[str, bytes]] = files_of,
    again: Callable[[Path], list[object]] | None = None,
) -> Counts:
    """A command under each fault; afterwards the same command gives what an undisturbed one gave.

    Args:
        start: Makes a new folder, in which the command finds what it needs and writes.
        command: The arguments of kdcache for that folder.
        calm: What an undisturbed command leaves.
        faults: How many operations an undisturbed command has -> which faults to try.
        contents: What is to be the same.
        again: The command that goes on; by default the same.
    """
    counts = Counts()
    first = forked(command(folder := start()), folder)
    assert first.status == 0, first.out
    assert contents(folder) == calm
    for fault in faults(len(first.operations)):
        folder = start()
        outcome = forked(command(folder), folder, fault)
        where = f"{fault.words} ({outcome.operations[min(fault.at, len(outcome.operations)) - 1]})\n{outcome.out}"
        counts.runs += 1
        assert "Traceback" not in outcome.out, where
        if outcome.status:
            assert outcome.status in (1, 2), where
            assert len(outcome.lines) == 1, where
            counts.failed += 1
        else:
            assert contents(folder) == calm, where
            counts.unharmed += 1
        healed = forked((again or command)(folder), folder)
        assert healed.status == 0, where + healed.out
        assert contents(folder) == calm, where + healed.out
        left = list(folder.rglob(".*.tmp"))
        assert not left, f"{where}: {left}"
    return counts


@contextlib.contextmanager
def small_disk(folder: Path, kilobytes: int) -> Iterator[Path]:
    """A disk of this size at folder; skips the test where none can be mounted."""
    import pytest

    folder.mkdir(parents=True, exist_ok=True)
    mounted = subprocess.run(
        ["mount", "-t", "tmpfs", "-o", f"size={kilobytes}k", "tmpfs", str(folder)], capture_output=True, check=False
    )
    if mounted.returncode:
        pytest.skip("no disk can be mounted here")
    try:
        yield folder
    finally:
        subprocess.run(["umount", "-l", str(folder)], check=False)
