"""Root: a cache's folder, on disk or anywhere fsspec reaches (s3://, gs://, memory://, file://).

Names inside it are relative and checked, so that a cache from elsewhere cannot make a reader leave its folder.
Writes are atomic: on disk see disk.py; a remote object appears whole or not at all because it is put in one request.
fsspec is imported for URLs only: a local path costs no 0.2 s of start-up.
"""

import contextlib
import os
import re
from collections.abc import Iterable
from typing import Any, Protocol

from kdcache.config.paths import expanded
from kdcache.disk import FULL_DISK, Disk, UnexpectedContent, fault, is_temporary
from kdcache.errors import CacheError

__all__ = ["Root", "UnexpectedFile", "check_name", "is_name"]

PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")


def is_name(name: str) -> bool:
    """Whether it is a plain relative path: not .., absolute, hidden or odd."""
    return all(PART.fullmatch(part) for part in name.split("/"))


def check_name(name: str) -> str:
    """The name, if it is a plain relative path. Raises ValueError for others."""
    if not is_name(name):
        raise ValueError(f"got file name {name!r}, expected a relative path inside the cache")
    return name


class UnexpectedFile(CacheError):
    """What bears the name of a file is no regular file, or is larger than it may be."""


class Files(Protocol):
    def read(self, name: str, most: int | None = None) -> bytes: ...
    def write(self, name: str, data: bytes, *, replace: bool = True) -> None: ...
    def size(self, name: str) -> int: ...
    def sizes(self, sub: str) -> dict[str, int]: ...
    def delete(self, name: str) -> None: ...
    def sweep(self, sub: str) -> None: ...


class Root:
    """A folder of files. `url`: a path or an fsspec URL.

    Raises FileNotFoundError for a file that is not there, CacheError for every other failure of the storage:
    a full disk, no permission, a protocol whose package is not installed.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.url = expanded(os.fspath(url)).rstrip("/") or "/"
        self.remote = False
        if "://" not in self.url:
            self._files: Files = Disk(self.url)
            return
        from fsspec.core import url_to_fs
        from fsspec.implementations.local import LocalFileSystem

        try:
            filesystem, path = url_to_fs(self.url, use_listings_cache=False)
        except (ValueError, ImportError, OSError) as error:
            raise CacheError(f"cannot open {self.url}: {fault(error)}") from None
        if isinstance(filesystem, LocalFileSystem):
            self._files = Disk(path)
        else:
            self._files, self.remote = Remote(filesystem, path), True

    def __truediv__(self, sub: str) -> "Root":
        return Root(f"{self.url}/{check_name(sub)}")

    def __repr__(self) -> str:
        return f"Root({self.url!r})"

    def read(self, name: str, most: int | None = None) -> bytes:
        """A whole file. most: how many bytes it may hold, compared before they are read.

        Raises UnexpectedFile for a larger file, and for a FIFO, a socket or a device.
        """
        try:
            return self._files.read(check_name(name), most)
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.url}/{name} does not exist") from None
        except UnexpectedContent as error:
            raise UnexpectedFile(f"cannot read {self.url}/{name}: {fault(error)}") from None
        except OSError as error:
            raise CacheError(f"cannot read {self.url}/{name}: {fault(error)}") from None

    def create(self, name: str, data: bytes) -> bytes:
        """Create a file, atomically, unless it is there already; what is in it now.

        On a disk one of several writers is the first, and all get its bytes. A remote store has no such promise.
        """
        self.write(name, data, replace=False)
        return self.read(name)

    def write(self, name: str, data: bytes, *, replace: bool = True) -> None:
        """Create or replace a file, atomically."""
        try:
            self._files.write(check_name(name), data, replace=replace)
        except OSError as error:
            if error.errno in FULL_DISK:
                raise CacheError(
                    f"no room for {self.url}/{name} ({len(data) / 1e6:.3g} MB): free some space and run the same "
                    "command again; committed shards are kept"
                ) from None
            raise CacheError(f"cannot write {self.url}/{name}: {fault(error)}") from None

    def sizes(self, sub: str = "") -> dict[str, int]:
        """Name -> bytes of the files directly in a subfolder, sorted by name, without unfinished writes."""
        return {name: size for name, size in self._all_sizes(sub).items() if not is_temporary(name)}

    def list(self, sub: str = "") -> tuple[str, ...]:
        return tuple(self.sizes(sub))

    def leftovers(self, sub: str = "") -> tuple[str, ...]:
        """Names of unfinished writes in a subfolder: of a killed process, or in progress."""
        return tuple(name for name in self._all_sizes(sub) if is_temporary(name))

    def size(self, name: str) -> int:
        try:
            return self._files.size(check_name(name))
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.url}/{name} does not exist") from None
        except OSError as error:
            raise CacheError(f"cannot read {self.url}/{name}: {fault(error)}") from None

    def is_there(self) -> bool:
        """Whether the folder itself is there; of a remote store, which has no folders, whether it holds shards."""
        return self._files.folder.exists() if isinstance(self._files, Disk) else bool(self.list("shards"))

    def exists(self, name: str) -> bool:
        try:
            self.size(name)
        except FileNotFoundError:
            return False
        return True

    def delete(self, names: str | Iterable[str]) -> None:
        """Delete files; ones that are not there are no error."""
        for name in [names] if isinstance(names, str) else names:
            try:
                self._files.delete(check_name(name))
            except OSError as error:
                raise CacheError(f"cannot delete {self.url}/{name}: {fault(error)}") from None

    def sweep(self, sub: str = "") -> None:
        """Delete what killed writers left in a subfolder."""
        self._files.sweep(sub)

    def _all_sizes(self, sub: str) -> dict[str, int]:
        try:
            return self._files.sizes(check_name(sub) if sub else sub)
        except OSError as error:
            raise CacheError(f"cannot list {self.url}/{sub}: {fault(error)}") from None


class Remote:
    """Files under a prefix of an fsspec filesystem."""

    def __init__(self, filesystem: Any, path: str) -> None:
        self.filesystem = filesystem
        self.path = path.rstrip("/")

    def read(self, name: str, most: int | None = None) -> bytes:
        data = self.filesystem.cat_file(
            f"{self.path}/{name}", **({} if most is None else {"start": 0, "end": most + 1})
        )
        if most is not None and len(data) > most:
            raise UnexpectedContent(f"got more than {most} bytes, expected at most so many")
        return data

    def write(self, name: str, data: bytes, *, replace: bool = True) -> None:
        target = f"{self.path}/{name}"
        if not replace and self.filesystem.exists(target):
            return
        self.filesystem.makedirs(target.rpartition("/")[0], exist_ok=True)
        self.filesystem.pipe_file(target, data)

    def size(self, name: str) -> int:
        self.filesystem.invalidate_cache()
        return self.filesystem.size(f"{self.path}/{name}")

    def sizes(self, sub: str) -> dict[str, int]:
        folder = f"{self.path}/{sub}".rstrip("/")
        self.filesystem.invalidate_cache()
        try:
            entries = self.filesystem.ls(folder, detail=True)
        except (FileNotFoundError, NotADirectoryError):
            return {}
        files = (entry for entry in entries if entry["type"] == "file")
        return dict(sorted((entry["name"].rpartition("/")[2], entry["size"]) for entry in files))

    def delete(self, name: str) -> None:
        with contextlib.suppress(FileNotFoundError):
            self.filesystem.rm_file(f"{self.path}/{name}")

    def sweep(self, sub: str) -> None:
        """A remote write leaves nothing behind."""
