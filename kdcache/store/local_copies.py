"""LocalCopies: whole shards of a remote cache kept on a local disk, within a size bound, least recently used out first.

Files are named by the sha256 of their content, so one folder serves every cache and every process of a machine, and
a shard that changed at its source is never taken for the old one. Modification times record the last use. Making
room and writing happen under a lock on the folder, so that the bound holds whatever the number of processes; fetching
happens under one of 256 locks by digest, so that of the ranks of a machine one fetches a shard and the others wait for
its copy. A folder that cannot be written, or a full disk, costs a sentence and the copies, never the run.
"""

import contextlib
import os
import tempfile
import time
from collections.abc import Callable, Iterator
from pathlib import Path

from kdcache.disk import FULL_DISK, Disk, fault, locked
from kdcache.progress import say

__all__ = ["LocalCopies", "default_folder"]


def default_folder() -> Path:
    """Where copies go when nobody says: ~/.cache/kdcache/shards, or under XDG_CACHE_HOME."""
    try:
        home = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache")
    except RuntimeError:  # this user has no home
        home = Path(tempfile.gettempdir()) / f"kdcache-{os.getuid()}"
    return home / "kdcache" / "shards"


class LocalCopies:
    def __init__(self, folder: str | os.PathLike[str], max_bytes: int) -> None:
        self.disk = Disk(folder)
        self.max_bytes = max_bytes
        self._told = False

    def fetch(self, sha256: str, size: int, download: Callable[[], bytes], wrong: Callable[[bytes], object]) -> bytes:
        """The copy of this digest, or what `download` gives, which is kept.

        Args:
            sha256: The digest.
            size: How many bytes it has.
            download: Gives the bytes, or raises; its errors are raised here.
            wrong: Says what is wrong with a copy, nothing where it is sound.
        """

        def sound() -> bytes | None:
            data = self.get(sha256, size)
            return None if data is None or wrong(data) else data

        data = sound()
        if data is not None:
            return data
        with self._alone(sha256) if size <= self.max_bytes else contextlib.nullcontext():
            data = sound()
            if data is None:
                data = download()
                self.put(sha256, data)
        return data

    def get(self, sha256: str, most: int | None = None) -> bytes | None:
        """The copy of this digest, unchecked; None if there is none, of at most so many bytes. Counts as a use."""
        try:
            data = self.disk.read(sha256, most)
        except OSError:
            return None
        self._touch(sha256)
        return data

    def put(self, sha256: str, data: bytes) -> None:
        """Keep a copy, if it fits the bound and the disk, and the folder can be written."""
        if len(data) > self.max_bytes:
            return
        try:
            self.disk.folder.mkdir(parents=True, exist_ok=True)
            with locked(self.disk.folder / "lock"):
                self.disk.sweep("")
                self._make_room(sha256, len(data))
                self.disk.write(sha256, data)
                self._touch(sha256)
        except OSError as error:
            self._tell(error)

    @contextlib.contextmanager
    def _alone(self, sha256: str) -> Iterator[None]:
        """Hold the lock of this digest, where there can be one."""
        with contextlib.ExitStack() as stack:
            try:
                folder = self.disk.folder / "locks"
                folder.mkdir(parents=True, exist_ok=True)
                stack.enter_context(locked(folder / sha256[:2]))
            except OSError as error:
                self._tell(error)
            yield

    def _tell(self, error: OSError) -> None:
        if not self._told:
            self._told = True
            full = error.errno in FULL_DISK
            remedy = "free some space" if full else "set XDG_CACHE_HOME to a folder that can be written"
            where = f"{self.disk.folder} ({fault(error)})"
            say(f"keeping no copies of shards in {where}, each read asks the store: {remedy}")

    def _make_room(self, sha256: str, size: int) -> None:
        copies = {name: s.bytes for name, s in self.disk.stamps("").items() if len(name) == 64 and name != sha256}
        total = sum(copies.values())
        for name in sorted(copies, key=self._last_use):
            if total + size <= self.max_bytes:
                return
            self.disk.delete(name)
            total -= copies[name]

    def _last_use(self, name: str) -> int:
        try:
            return (self.disk.folder / name).stat().st_mtime_ns
        except OSError:  # deleted meanwhile
            return 0

    def _touch(self, name: str) -> None:
        now = time.time_ns()
        with contextlib.suppress(OSError):
            os.utime(self.disk.folder / name, ns=(now, now))
