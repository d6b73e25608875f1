"""LocalCopies: whole shards of a remote cache kept on a local disk, within a size bound, least recently used out first.

Files are named by the sha256 of their content, so one folder serves every cache and every process of a machine, and
a shard that changed at its source is never taken for the old one. Modification times record the last use. Making
room and writing happen under a lock on the folder, so that the bound holds whatever the number of processes.
"""

import contextlib
import os
import time
from pathlib import Path

from kdcache.disk import FULL_DISK, Disk, locked
from kdcache.errors import CacheError

__all__ = ["LocalCopies", "default_folder"]


def default_folder() -> Path:
    """Where copies go when nobody says: ~/.cache/kdcache/shards, or under XDG_CACHE_HOME."""
    return Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdcache" / "shards"


class LocalCopies:
    def __init__(self, folder: str | os.PathLike[str], max_bytes: int) -> None:
        self.disk = Disk(folder)
        self.max_bytes = max_bytes

    def get(self, sha256: str, most: int | None = None) -> bytes | None:
        """The copy of this digest, unchecked; None if there is none, of at most so many bytes. Counts as a use."""
        try:
            data = self.disk.read(sha256, most)
        except OSError:
            return None
        self._touch(sha256)
        return data

    def put(self, sha256: str, data: bytes) -> None:
        """Keep a copy, if it fits the bound and the disk. Raises CacheError for a folder that cannot be written."""
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
            if error.errno not in FULL_DISK:
                raise CacheError(f"cannot keep a shard in {self.disk.folder}: {error.strerror}") from None

    def _make_room(self, sha256: str, size: int) -> None:
        copies = {name: bytes_ for name, bytes_ in self.disk.sizes("").items() if len(name) == 64 and name != sha256}
        total = sum(copies.values())
        for name in sorted(copies, key=self._last_use):
            if total + size <= self.max_bytes:
                return
            self.disk.delete(name)
            total -= copies[name]

    def _last_use(self, name: str) -> int:
        return (self.disk.folder / name).stat().st_mtime_ns

    def _touch(self, name: str) -> None:
        now = time.time_ns()
        with contextlib.suppress(OSError):
            os.utime(self.disk.folder / name, ns=(now, now))
