"""A folder on a local or mounted disk: atomic writes that survive SIGKILL and power loss.

Only regular files are read, and no more of one than is expected of it: a FIFO would hang and a device never end.

A file is written under a hidden temporary name, fsynced and renamed, and then its folder is fsynced: a reader sees
the whole file or none. A writer holds a lock (flock) on its temporary file, so that `sweep` can tell the leftovers
of a killed process from a write in progress. Cost over a plain write: two fsyncs, 1–20 ms on a disk.
"""

import contextlib
import errno
import os
import stat
import uuid
from collections.abc import Iterator
from pathlib import Path
from typing import BinaryIO, NamedTuple

from kdcache.errors import one_line

try:
    import fcntl
except ImportError:  # not POSIX: nothing is locked, so nothing is swept
    fcntl = None  # type: ignore[assignment]

__all__ = [
    "FULL_DISK",
    "Disk",
    "Stamp",
    "UnexpectedContent",
    "check_regular",
    "fault",
    "is_temporary",
    "locked",
    "make_folder",
    "mend",
    "read_regular",
    "sync_folder",
    "what_to_do",
    "whole_file",
]

TEMPORARY = ".tmp"
READING = os.O_RDONLY | getattr(os, "O_NONBLOCK", 0) | getattr(os, "O_NOCTTY", 0)
NO_LINKS = {errno.EPERM, errno.ENOTSUP, errno.EOPNOTSUPP, errno.ENOSYS, errno.EMLINK}
FULL_DISK = {errno.ENOSPC, errno.EDQUOT, errno.EFBIG}
OF_THE_SYSTEM = {
    *FULL_DISK,
    *(errno.EIO, errno.EROFS, errno.EACCES, errno.EPERM, errno.EMFILE, errno.ENFILE, errno.ENOMEM, errno.ESTALE),
}
"""Errors that no program can be wrong about: the disk, its permissions, the limits of the process."""


def is_temporary(name: str) -> bool:
    """Whether this file name is that of an unfinished write."""
    return name.startswith(".") and name.endswith(TEMPORARY)


class Stamp(NamedTuple):
    """bytes: the size of a file. state: another number once the file was replaced."""

    bytes: int
    state: int


class Disk:
    """Files under `folder`, by names relative to it. Raises OSError as the system does."""

    def __init__(self, folder: str | os.PathLike[str]) -> None:
        self.folder = Path(folder)

    def read(self, name: str, most: int | None = None) -> bytes:
        """most: how many bytes it may hold. Raises UnexpectedContent for more, and for what is no regular file."""
        return read_regular(f"{self.folder}/{name}", most)

    def read_part(self, name: str, start: int, size: int, whole: int) -> bytes:
        """Some bytes of a file of `whole` bytes; fewer at its end. Raises UnexpectedContent for another size."""
        return read_regular(f"{self.folder}/{name}", part=(start, size, whole))

    def write(self, name: str, data: bytes, *, replace: bool = True) -> None:
        """replace: False leaves a file that is there already as it is."""
        with whole_file(self.folder / name, replace=replace) as file:
            file.write(data)

    def size(self, name: str) -> int:
        return (self.folder / name).stat().st_size

    def names(self, sub: str) -> list[str]:
        """The names of the files directly in a subfolder, sorted; none where there is no such folder."""
        try:
            with os.scandir(self.folder / sub) as entries:
                return sorted(entry.name for entry in entries if entry.is_file())
        except FileNotFoundError:
            return []

    def stamps(self, sub: str) -> dict[str, Stamp]:
        """Their sizes and states, in the same order, without unfinished writes; several times the cost of the names."""
        stamps = []
        try:
            with os.scandir(self.folder / sub) as entries:
                for entry in entries:
                    try:
                        if entry.is_file() and not is_temporary(name := entry.name):
                            status = entry.stat()
                            state = hash((status.st_mtime_ns, status.st_ino))
                            stamps.append((name, Stamp(status.st_size, state)))
                    except FileNotFoundError:  # another writer's temporary file, renamed meanwhile
                        continue
        except FileNotFoundError:
            return {}
        return dict(sorted(stamps))

    def entries(self) -> list[str]:
        """The names of everything directly in the folder; none where it is not there."""
        try:
            return os.listdir(self.folder)
        except FileNotFoundError:
            return []

    def folders(self, sub: str) -> list[str]:
        """The names of the folders directly in a subfolder; none where it is not there."""
        try:
            with os.scandir(self.folder / sub) as entries:
                return [entry.name for entry in entries if entry.is_dir()]
        except FileNotFoundError:
            return []

    def delete(self, name: str) -> None:
        (self.folder / name).unlink(missing_ok=True)

    def sweep(self, sub: str) -> None:
        """Delete the temporary files in a subfolder whose writer is dead."""
        for name in self.names(sub):
            if is_temporary(name) and fcntl is not None:
                path = self.folder / sub / name
                with contextlib.suppress(OSError), open(path, "rb") as file:
                    fcntl.flock(file, fcntl.LOCK_EX | fcntl.LOCK_NB)
                    path.unlink()


class UnexpectedContent(OSError):
    """What bears the name of a file is no regular file, or is larger than it may be."""

    def __init__(self, words: str) -> None:
        super().__init__(errno.EINVAL, words)


def read_regular(path: str | Path, most: int | None = None, *, part: tuple[int, int, int] | None = None) -> bytes:
    """The bytes of a regular file, whose size is compared before one of them is read.

    Args:
        path: Links are followed.
        most: How many bytes it may hold.
        part: Which bytes alone to read, of a file of which size: (start, bytes, bytes of the file).

    Raises:
        UnexpectedContent: It holds more, or is a FIFO, a socket or a device.
    """
    descriptor = os.open(path, READING)
    try:
        status = os.fstat(descriptor)
        if not stat.S_ISREG(status.st_mode):
            if stat.S_ISDIR(status.st_mode):
                raise IsADirectoryError(errno.EISDIR, os.strerror(errno.EISDIR))
            raise UnexpectedContent(f"got {_kind(status.st_mode)}, expected a regular file")
        if most is not None and status.st_size > most:
            raise UnexpectedContent(f"got {status.st_size} bytes, expected at most {most}")
        if part is None:
            return _read(descriptor, status.st_size)
        start, size, whole = part
        if status.st_size != whole:
            raise UnexpectedContent(f"got {status.st_size} bytes, expected {whole}")
        return os.pread(descriptor, size, start)
    finally:
        os.close(descriptor)


def _read(descriptor: int, size: int) -> bytes:
    """So many bytes, or fewer where the file ends before; one call gives 2 GiB at most."""
    data = os.read(descriptor, size)
    if len(data) == size:
        return data
    parts = [data]
    while data and (size := size - len(data)) > 0:
        data = os.read(descriptor, size)
        parts.append(data)
    return b"".join(parts)


def _kind(mode: int) -> str:
    if stat.S_ISDIR(mode):
        return "a folder"
    return "a FIFO" if stat.S_ISFIFO(mode) else "a socket" if stat.S_ISSOCK(mode) else "a device"


@contextlib.contextmanager
def whole_file(target: Path, *, replace: bool = True) -> Iterator[BinaryIO]:
    """A file to write, which takes the target's place when the block ends well; nothing is left of it otherwise."""
    make_folder(target.parent)
    temporary = target.with_name(f".{target.name}.{uuid.uuid4().hex}{TEMPORARY}")
    try:
        with open(temporary, "xb") as file:
            _lock(file.fileno())
            yield file
            file.flush()
            os.fsync(file.fileno())
            if replace:
                os.replace(temporary, target)
            else:
                _link(temporary, target)
                temporary.unlink(missing_ok=True)
    except BaseException:
        temporary.unlink(missing_ok=True)
        raise
    sync_folder(target.parent)


def _link(temporary: Path, target: Path) -> None:
    """Give a file its name, unless another has it. Without hard links (FAT, some mounts) there is a moment between."""
    try:
        os.link(temporary, target)
    except FileExistsError:
        pass
    except OSError as error:
        if error.errno not in NO_LINKS:
            raise
        if not target.exists():
            os.replace(temporary, target)


def check_regular(path: str | os.PathLike[str], most: int | None = None) -> int:
    """The size of a file that others will read to its end. Links are followed.

    Raises OSError where it cannot be looked at: UnexpectedContent for a pipe, a device, a socket or a folder, whose
    reading might never end, and for more bytes than `most`.
    """
    status = os.stat(path)
    if not stat.S_ISREG(status.st_mode):
        raise UnexpectedContent(f"got {_kind(status.st_mode)}, expected a regular file")
    if most is not None and status.st_size > most:
        raise UnexpectedContent(f"got {status.st_size:,} bytes, expected at most {most:,}")
    return status.st_size


def make_folder(folder: Path) -> None:
    """With the folders above it, whose names are on the disk then too."""
    new, path = [], folder
    while not path.is_dir():
        new.append(path)
        path = path.parent
    folder.mkdir(parents=True, exist_ok=True)
    for made in reversed(new):
        sync_folder(made.parent)


def what_to_do(error: OSError) -> str | None:
    """An error of the system in one line with what helps; None where it may be a mistake of the program."""
    if error.errno not in OF_THE_SYSTEM and "os error" not in str(error):
        return None
    name = f" {os.fsdecode(error.filename)}" if isinstance(error.filename, str | bytes) else ""
    helps = f"{mend(error)}, and run the same command again"
    if error.errno in FULL_DISK or "No space left" in str(error):
        helps = "free some space, and run the same command again"
    elif error.errno in (errno.EACCES, errno.EPERM, errno.EROFS):
        helps = "expected a file that this user may read, in a folder that this user may write in"
    return f"cannot read or write{name}: {fault(error)}; {helps}"


def mend(error: OSError) -> str:
    """What helps against an error of reading."""
    if error.errno in (errno.EMFILE, errno.ENFILE):
        return "raise the limit of open files (ulimit -n 1024)"
    return "let this user read it" if error.errno in (errno.EACCES, errno.EPERM) else "mend that"


def fault(error: BaseException) -> str:
    """What is wrong with a file, as the system says it, in one line."""
    return getattr(error, "strerror", None) or one_line(error)


@contextlib.contextmanager
def locked(path: Path) -> Iterator[None]:
    """Hold the lock file, waiting for whoever has it."""
    with open(path, "wb") as file:
        if fcntl is not None:
            with contextlib.suppress(OSError):
                fcntl.flock(file, fcntl.LOCK_EX)
        yield


def _lock(descriptor: int) -> None:
    """Some network file systems know no locks; the sweep then finds none to take either, and deletes nothing."""
    if fcntl is not None:
        with contextlib.suppress(OSError):
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)


def sync_folder(folder: Path) -> None:
    """Returns when the names in a folder are on the disk."""
    descriptor = os.open(folder, os.O_RDONLY)
    try:
        os.fsync(descriptor)
    finally:
        os.close(descriptor)
