"""Files under a prefix of one of fsspec's file systems; files.py makes a cache's folder of them.

Each request goes through `retried` (kdcache/remote.py), which makes it again where it failed for a reason that passes.
"""

import contextlib
import hashlib
import time
from collections.abc import Iterator
from typing import Any

from kdcache.disk import Stamp, UnexpectedContent, is_temporary
from kdcache.remote import RemoteError, create_file, retried

__all__ = ["Remote"]

OBJECT_STORES = {"s3", "s3a", "gs", "gcs", "abfs", "abfss", "az", "adl", "oss", "obs", "tos", "r2", "memory"}
"""Protocols of stores that have no folders to be made; making one of them would make a bucket."""

STATES = ("ETag", "etag", "generation", "blob_id", "LastModified", "last_modified", "updated", "mtime", "created")
"""What stores call the state of an object when they list it."""


class Remote:
    """Files under a prefix of an fsspec filesystem. Raises RemoteError, an OSError, for what a server says."""

    def __init__(self, url: str, filesystem: Any, path: str) -> None:
        self.url = url
        self.filesystem = filesystem
        self.path = path.rstrip("/")
        protocols = filesystem.protocol
        protocols = {protocols} if isinstance(protocols, str) else {*protocols}
        self._has_folders = OBJECT_STORES.isdisjoint(protocols)
        # One request has one version of an object, and a checksum; s3fs would take several, and ask for the size first.
        self._in_one = {"max_concurrency": 1} if "s3" in protocols else {}

    def read(self, name: str, most: int | None = None) -> bytes:
        if most is not None and (size := self.size(name)) > most:
            raise UnexpectedContent(f"got {size} bytes, expected at most {most}")
        what = f"cannot read {self.url}/{name}"
        return retried(lambda: self.filesystem.cat_file(f"{self.path}/{name}", **self._in_one), what)

    def read_part(self, name: str, start: int, size: int, whole: int) -> bytes:
        target, what = f"{self.path}/{name}", f"cannot read {self.url}/{name}"
        try:
            data = retried(lambda: self.filesystem.cat_file(target, start=start, end=start + size), what)
        except RemoteError:
            if (found := self.size(name)) < start + size:  # some servers refuse a range that is not there
                raise UnexpectedContent(f"got {found} bytes, expected {whole}") from None
            raise
        if len(data) == whole > size:  # a web server that knows no ranges
            return data[start : start + size]
        return data

    def write(self, name: str, data: bytes, *, replace: bool = True) -> None:
        target, what = f"{self.path}/{name}", f"cannot write {self.url}/{name}"
        if self._has_folders:
            retried(lambda: self.filesystem.makedirs(target.rpartition("/")[0], exist_ok=True), what)
        if replace:
            retried(lambda: self.filesystem.pipe_file(target, data), what)
            return
        with contextlib.suppress(FileExistsError):
            retried(lambda: create_file(self.filesystem, target, data), what)

    def _forget(self) -> None:
        """What was listed before, which others may have changed."""
        self.filesystem.invalidate_cache()

    def size(self, name: str) -> int:
        def ask() -> int:
            self._forget()
            return int(self.filesystem.size(f"{self.path}/{name}"))

        return retried(ask, f"cannot read {self.url}/{name}")

    def names(self, sub: str) -> list[str]:
        return sorted(name for name, _ in self._files(sub))

    def stamps(self, sub: str) -> dict[str, Stamp]:
        return dict(sorted((name, _stamp(entry)) for name, entry in self._files(sub) if not is_temporary(name)))

    def _files(self, sub: str) -> Iterator[tuple[str, dict[str, Any]]]:
        return ((one["name"].rpartition("/")[2], one) for one in self._list(sub) if one["type"] == "file")

    def folders(self, sub: str) -> list[str]:
        folders = (entry for entry in self._list(sub) if entry["type"] == "directory")
        return [entry["name"].rstrip("/").rpartition("/")[2] for entry in folders]

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            retried(lambda: self.filesystem.rm_file(f"{self.path}/{name}"), f"cannot delete {self.url}/{name}")

    def entries(self) -> list[str]:
        names = [entry["name"].rstrip("/") for entry in self._list("")]
        return [name.rpartition("/")[2] for name in names if name != self.path]

    def _list(self, sub: str) -> list[dict[str, Any]]:
        folder = f"{self.path}/{sub}".rstrip("/")

        def ask() -> list[dict[str, Any]]:
            self._forget()
            return self.filesystem.ls(folder, detail=True)

        try:
            return retried(ask, f"cannot list {self.url}/{sub}".rstrip("/"))
        except (FileNotFoundError, NotADirectoryError):
            return []

    def sweep(self, sub: str) -> None:
        """A remote write leaves nothing behind, but a folder that was copied to a store may bring such files along.

        Behind a URL with folders another process may be writing them on its disk, so there they stay.
        """
        for name in self.names(sub):
            if is_temporary(name) and not self._has_folders:
                self.delete(f"{sub}/{name}".lstrip("/"))


def _stamp(entry: dict[str, Any]) -> Stamp:
    """Of what a store lists. One that tells no state gives a new one each time, so that its objects are read again."""
    states = [str(entry[key]) for key in STATES if entry.get(key) is not None]
    told = hashlib.sha256("|".join(states).encode()).digest()[:8]
    return Stamp(entry["size"], int.from_bytes(told) if states else time.monotonic_ns())
