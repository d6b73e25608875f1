"""Root: a cache's folder, on disk or anywhere fsspec reaches (s3://, gs://, memory://, file://, hf://).

Names inside it are relative and checked, so that a cache from elsewhere cannot make a reader leave its folder.
Writes are atomic: on disk see disk.py; an object of a store (S3 and its like, Google's, Azure's, memory) appears whole
or not at all, because it is put in one request, or in parts that the last request makes an object. On what has folders
behind a URL (sftp, smb, hdfs) a reader may see half a file, which its digest tells. Requests that fail are tried again
(kdcache/remote.py), a bucket is never made. fsspec is imported for URLs only: a local path costs no 0.2 s of start-up.
"""

import os
import re
from collections.abc import Callable, Iterable, Iterator, Sequence
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path
from typing import Any, Protocol, TypeVar

from kdcache.config.paths import expanded
from kdcache.disk import FULL_DISK, Disk, Stamp, UnexpectedContent, fault, is_temporary, mend
from kdcache.errors import CacheError, UnreadableError
from kdcache.hub import is_hub
from kdcache.progress import say
from kdcache.remote import open_url
from kdcache.store.remote_files import Remote

__all__ = ["Root", "Stamp", "UnexpectedFile", "check_name", "is_name"]

READERS = 16
"""How many files of a remote store are read at the same time."""
REFETCHES = 2
"""How often the body of a remote file is fetched again that is not what it should be."""

PART = re.compile(r"[A-Za-z0-9_][A-Za-z0-9_.+-]*")
NAME = re.compile(rf"{PART.pattern}(?:/{PART.pattern})*")


def is_name(name: str) -> bool:
    """Whether it is a plain relative path: not .., absolute, hidden or odd."""
    return NAME.fullmatch(name) is not None


def check_name(name: str) -> str:
    """The name, if it is a plain relative path. Raises ValueError for others."""
    if not is_name(name):
        raise ValueError(f"got file name {name!r}, expected a relative path inside the cache")
    return name


class UnexpectedFile(CacheError):
    """What bears the name of a file is no regular file, or is larger than it may be."""


L = TypeVar("L")


class Files(Protocol):
    def read(self, name: str, most: int | None = None) -> bytes: ...
    def read_part(self, name: str, start: int, size: int, whole: int) -> bytes: ...
    def write(self, name: str, data: bytes, *, replace: bool = True) -> None: ...
    def size(self, name: str) -> int: ...
    def names(self, sub: str) -> list[str]: ...
    def stamps(self, sub: str) -> dict[str, Stamp]: ...
    def delete(self, name: str) -> None: ...
    def sweep(self, sub: str) -> None: ...
    def entries(self) -> list[str]: ...
    def folders(self, sub: str) -> list[str]: ...


class Root:
    """A folder of files. `url`: a path or an fsspec URL.

    Raises FileNotFoundError for a file that is not there, UnreadableError for one that cannot be read or listed now,
    CacheError for every other failure of the storage: a full disk, no permission, a protocol whose package is not
    installed.
    """

    def __init__(self, url: str | os.PathLike[str]) -> None:
        self.url = expanded(os.fspath(url)).rstrip("/") or "/"
        self.remote = False
        if "://" not in self.url:
            self._files: Files = Disk(self.url)
            return
        if is_hub(self.url):
            self._open_hub()
            return
        from fsspec.implementations.local import LocalFileSystem

        try:
            filesystem, path = open_url(self.url)
        except (ValueError, ImportError, OSError) as error:
            raise CacheError(f"cannot open {self.url}: {fault(error)}") from None
        if isinstance(filesystem, LocalFileSystem):
            self._files = Disk(path)
        else:
            self._files, self.remote = Remote(self.url, filesystem, path), True

    def _open_hub(self) -> None:
        """The commit that the URL means now is read from then on, and stands in `url`."""
        from kdcache.store.hub_files import HubFiles

        try:
            files = HubFiles(self.url)
        except OSError as error:
            missing = getattr(error, "missing", False)
            kind = CacheError if missing else UnreadableError
            raise kind(f"cannot open {self.url}: {fault(error)}", missing_path=missing) from None
        self.url, self._files, self.remote = files.url, files, True

    def __truediv__(self, sub: str) -> "Root":
        return Root(f"{self.url}/{check_name(sub)}")

    def __repr__(self) -> str:
        return f"Root({self.url!r})"

    def read(self, name: str, most: int | None = None, *, wrong: Callable[[bytes], object] | None = None) -> bytes:
        """The bytes of a file.

        Args:
            name: of the file.
            most: how many bytes it may hold, compared before they are read.
            wrong: says what is wrong with its bytes, or raises CacheError; nothing where they are right. A remote body
                that is wrong is fetched again, twice at most, before anybody calls the file damaged.

        Raises:
            UnexpectedFile: a larger file, or a FIFO, a socket or a device.
        """
        return self._checked(name, lambda: self._files.read(check_name(name), most), wrong)

    def read_each(
        self, sub: str, names: Sequence[str], most: int, *, wrong: Callable[[bytes], object] | None = None
    ) -> "Iterator[bytes | UnexpectedFile | None]":
        """The bytes of files directly in a subfolder, in this order; None for one that is not there.

        Several at a time, of a remote store. Arguments and errors as of `read`, whose UnexpectedFile is given instead.
        """
        folder = check_name(sub)

        def read(name: str) -> bytes | UnexpectedFile | None:
            try:
                if self.remote:
                    return self.read(f"{folder}/{name}", most, wrong=wrong)
                return self._once(f"{folder}/{name}", self._files.read, most)
            except FileNotFoundError:
                return None
            except UnexpectedFile as error:
                return error

        if self.remote and len(names) > 1:
            with ThreadPoolExecutor(READERS) as pool:
                yield from pool.map(read, names)
        else:
            yield from map(read, names)

    def read_part(
        self, name: str, start: int, size: int, whole: int, *, wrong: Callable[[bytes], object] | None = None
    ) -> bytes:
        """Some bytes of a file, and no others of it: one request for a range, of a remote one.

        Args:
            name: of the file.
            start: the first byte.
            size: how many; a file that ends before gives fewer.
            whole: how many bytes the file has.
            wrong: as for `read`.

        Raises:
            UnexpectedFile: a file of another size, of those on a disk; of a remote one where it ends before.
        """
        return self._checked(name, lambda: self._files.read_part(check_name(name), start, size, whole), wrong)

    def _checked(self, name: str, read: Callable[[], bytes], wrong: Callable[[bytes], object] | None) -> bytes:
        for again in range(REFETCHES, -1, -1):
            data = self._once(name, read)
            found = _fault(wrong, data) if self.remote and wrong is not None and again else None
            if not found:
                break
            say(f"got wrong bytes of {self.url}/{name} ({found}); fetching it again")
        return data

    def _once(self, name: str, read: Callable[..., bytes], *arguments: Any) -> bytes:
        """What `read` gives for a name and more, or for nothing. Raises as `read` of this class does."""
        try:
            return read(name, *arguments) if arguments else read()
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.url}/{name} does not exist") from None
        except UnexpectedContent as error:
            raise UnexpectedFile(f"cannot read {self.url}/{name}: {fault(error)}") from None
        except OSError as error:
            raise self._unreadable("read", name, error) from None

    def create(self, name: str, data: bytes) -> bytes:
        """Create a file, atomically, unless it is there already; what is in it now.

        On a disk, and in a store that knows conditional writes (S3's If-None-Match, Google's generations, memory), one
        of several writers is the first, and all get its bytes. A store that does not know them refuses them, and is
        then asked before writing, or ignores them: there, of two writers in the same moment each may get its own.
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
            raise CacheError(
                f"cannot write {self.url}/{name}: {fault(error)}", missing_path=getattr(error, "missing", False)
            ) from None

    def sizes(self, sub: str = "") -> dict[str, int]:
        """Name -> bytes of the files directly in a subfolder, sorted by name, without unfinished writes."""
        return {name: stamp.bytes for name, stamp in self.stamps(sub).items()}

    def stamps(self, sub: str = "") -> dict[str, Stamp]:
        """Name -> size and state of the same files; who replaces a file gives it another state."""
        return self._listed(self._files.stamps, sub)

    def list(self, sub: str = "") -> tuple[str, ...]:
        """Their names alone, which costs less on a disk."""
        return tuple(name for name in self._listed(self._files.names, sub) if not is_temporary(name))

    def leftovers(self, sub: str = "") -> tuple[str, ...]:
        """Names of unfinished writes in a subfolder: of a killed process, or in progress."""
        return tuple(name for name in self._listed(self._files.names, sub) if is_temporary(name))

    def size(self, name: str) -> int:
        try:
            return self._files.size(check_name(name))
        except FileNotFoundError:
            raise FileNotFoundError(f"{self.url}/{name} does not exist") from None
        except OSError as error:
            raise self._unreadable("read", name, error) from None

    def is_there(self) -> bool:
        """Whether the folder itself is there; of a remote store, which has no folders, whether it holds anything."""
        return self._files.folder.exists() if isinstance(self._files, Disk) else bool(self.entries())

    @property
    def local(self) -> Path | None:
        """The folder on a disk, None of a remote store."""
        return self._files.folder if isinstance(self._files, Disk) else None

    def entries(self) -> tuple[str, ...]:
        """The names of everything directly in the folder, hidden ones and folders too."""
        try:
            return tuple(sorted(self._files.entries()))
        except OSError as error:
            raise self._unreadable("list", "", error) from None

    def folders(self, sub: str) -> tuple[str, ...]:
        """The names of the folders directly in a subfolder, without hidden and odd ones."""
        try:
            return tuple(sorted(name for name in self._files.folders(check_name(sub)) if is_name(name)))
        except OSError as error:
            raise self._unreadable("list", sub, error) from None

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

    def _listed(self, listing: Callable[[str], L], sub: str) -> L:
        try:
            return listing(check_name(sub) if sub else sub)
        except OSError as error:
            raise self._unreadable("list", sub, error) from None

    def _unreadable(self, verb: str, name: str, error: OSError) -> UnreadableError:
        words = f"cannot {verb} {self.url}/{name}: {fault(error)}"
        if not self.remote:
            words = f"{words}; nothing says that it is damaged: {mend(error)}, and run the same command again"
        return UnreadableError(words, missing_path=getattr(error, "missing", False))


def _fault(wrong: Callable[[bytes], object], data: bytes) -> object:
    try:
        return wrong(data)
    except CacheError as error:
        return error
