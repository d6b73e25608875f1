"""What goes wrong at one operation on a disk: the k-th under a folder is refused, or the process is killed in it.

Operations are those that change a disk: opening a file to write, writing into a checkpoint's file, fsync, rename,
making and removing files and folders. Python's audit events tell of them before they are done, in every thread.
"""

import errno
import os
import signal
import sys
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from pathlib import Path
from typing import Any

from kdcache.train.checkpoint_engine import DigestedFile

__all__ = ["ERRORS", "operations", "watch", "watching"]

ERRORS = {"ENOSPC": errno.ENOSPC, "EIO": errno.EIO}
WRITING = os.O_WRONLY | os.O_RDWR | os.O_CREAT
Watcher = Callable[[str, Path], None]
_watchers: list[tuple[Path, Watcher]] = []
_fsync = os.fsync
_write = DigestedFile._write


def _tell(what: str, path: Path) -> None:
    for folder, watcher in [*_watchers]:
        if folder == path or folder in path.parents:
            watcher(what, path)


def _whole(path: Any, folder: int = -1) -> Path:
    path = Path(os.fsdecode(path))
    return path if path.is_absolute() or folder < 0 else Path(os.readlink(f"/proc/self/fd/{folder}")) / path


def _hook(event: str, arguments: tuple[Any, ...]) -> None:
    if not _watchers:
        return
    if event == "open":
        path, _, flags = arguments
        if isinstance(path, str | bytes) and flags & WRITING:
            _tell("open", _whole(path))
    elif event == "os.rename":
        _tell("rename", _whole(arguments[1], arguments[3]))
    elif event in ("os.mkdir", "os.remove", "os.rmdir"):
        _tell(event.removeprefix("os."), _whole(arguments[0], arguments[-1]))


def _watched_fsync(file: Any) -> None:
    number = file if isinstance(file, int) else file.fileno()
    path = Path(os.readlink(f"/proc/self/fd/{number}"))
    _tell("fsync", path)
    _fsync(number)
    _tell("fsynced", path)


def _watched_write(self: DigestedFile, view: memoryview) -> None:
    """Half of it is written before anything goes wrong."""
    half = len(view) // 2
    _write(self, view[:half])
    _tell("write", Path(self.file.name))
    _write(self, view[half:])


def watch(folder: Path, watcher: Watcher) -> tuple[Path, Watcher]:
    """From now on, tell the watcher of every operation under a folder before it is done, and of "fsynced" after it."""
    if os.fsync is not _watched_fsync:
        sys.addaudithook(_hook)
        os.fsync = _watched_fsync
        DigestedFile._write = _watched_write  # type: ignore[method-assign]
    _watchers.append((folder, watcher))
    return folder, watcher


@contextmanager
def watching(folder: Path, watcher: Watcher) -> Iterator[None]:
    """The same inside the block."""
    entry = watch(folder, watcher)
    try:
        yield
    finally:
        _watchers.remove(entry)


class operations:
    """Counts them; at number `at`, from 0 on, does what `fault` says: an error's name, or KILL."""

    def __init__(self, folder: Path, fault: str = "", at: int = -1) -> None:
        self.folder, self.fault, self.at = folder, fault, at
        self.names: list[str] = []

    def __enter__(self) -> "operations":
        self._watching = watching(self.folder, self._count)
        self._watching.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self._watching.__exit__(None, None, None)

    def _count(self, what: str, path: Path) -> None:
        if what == "fsynced":
            return
        self.names.append(f"{what} {path.name}")
        if len(self.names) - 1 == self.at:
            if self.fault == "KILL":
                os.kill(os.getpid(), signal.SIGKILL)
            raise OSError(ERRORS[self.fault], os.strerror(ERRORS[self.fault]), str(path))
