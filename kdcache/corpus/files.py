"""Paths, globs, folders and fsspec URLs -> the files of a corpus, sorted by name.

A folder gives every file below it that has a suffix of the format, and maybe one of compression; names that begin
with "." or "_" are left out, as pyarrow.dataset does. A glob gives every file that it matches. A file that is named
twice counts once.
"""

import itertools
import os
import posixpath
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from dataclasses import dataclass, field
from functools import partial
from typing import Any, TypeVar

from kdcache.corpus.layout import Layout, plain_name
from kdcache.corpus.settings import CorpusConfig
from kdcache.disk import check_regular, fault
from kdcache.errors import CorpusError
from kdcache.remote import RemoteFile, SeenBlocks, is_absent, open_url, retried

__all__ = ["CorpusFile", "changed", "explained", "find_files", "format_of_name"]

T = TypeVar("T")

SUFFIXES = {
    "jsonl": (".jsonl", ".ndjson"),
    "parquet": (".parquet", ".pq"),
    "arrow": (".arrow", ".arrows", ".feather", ".ipc"),
    "csv": (".csv", ".tsv", ".tab"),
    "conll": (".conll", ".conllu", ".bio", ".iob", ".iob2"),
    "text": (".txt", ".text", ".md", ".rst"),
}


@dataclass(frozen=True)
class CorpusFile:
    """One file. name: relative to the folder that all files of the corpus share, with "/"; key: changes when the file
    does, as far as its file system can tell without reading it (fsspec's ukey). layout: of its bytes. seen: the
    checksums of what was read of a remote file, so that it reads the same again."""

    fs: Any
    path: str
    url: str
    name: str
    size: int
    key: str
    layout: Layout
    seen: SeenBlocks = field(default_factory=SeenBlocks, compare=False, repr=False)

    def open(self) -> Any:
        if self.local or _is_streamed(self.fs):
            return self.fs.open(self.path, "rb")
        return RemoteFile.open(self._remote_range, self.size)

    @property
    def local(self) -> bool:
        return _is_local(self.fs)

    def check_size(self) -> None:
        with explained(self.name):
            size = int(_asked(self.fs, self.url, partial(self.fs.size, self.path)))
        if size != self.size:
            raise changed(self.name, f"it had {self.size} bytes when it was indexed, now {size}")

    def check_unchanged(self) -> None:
        """Raises CorpusError where the file at the URL, which may be read from a copy, is another one now."""
        with explained(self.name):
            fs, path = _file_system(self.url)
            key = str(_asked(fs, self.url, partial(fs.ukey, path)))
        if key != self.key:
            raise changed(self.name, "it is not the file that was opened")

    def read(self, start: int, stop: int) -> bytes:
        """These bytes, and no others, of a file that still has its size."""
        self.check_size()
        with explained(self.name):
            if not self.local:
                return self._remote_range(start, stop)
            data = bytes(self.fs.cat_file(self.path, start=start, end=stop))
        if len(data) != stop - start:
            raise changed(self.name, f"bytes {start} to {stop} are not there")
        return data

    def _remote_range(self, start: int, stop: int) -> bytes:
        """These bytes, the same as at every read before. Raises OSError, or CorpusError where they are others."""

        def fetch(first: int, last: int) -> bytes:
            data = bytes(self.fs.cat_file(self.path, start=first, end=last))
            if len(data) != last - first:
                raise ConnectionError(f"got {len(data)} bytes, expected {last - first}")
            return data

        what = f"cannot read corpus file {self.url}"
        data = self.seen.read(lambda first, last: retried(partial(fetch, first, last), what), start, stop, self.size)
        if data is None:
            raise changed(self.name, f"bytes {start} to {stop} are others than at the first read")
        return data


def changed(name: str, how: str) -> CorpusError:
    return CorpusError(f"{name} changed while it was being used: {how}; expected files that stay; start again")


@contextmanager
def explained(name: str) -> Iterator[None]:
    """File system faults as a CorpusError that names the file."""
    try:
        yield
    except OSError as error:
        missing = getattr(error, "missing", False)
        raise CorpusError(f"cannot read corpus file {name}: {fault(error)}", missing_path=missing) from error


def find_files(config: CorpusConfig) -> list[CorpusFile]:
    """Every file that config.paths mean, sorted by URL. Raises CorpusError where one means none."""
    found: dict[str, tuple[Any, str, int]] = {}
    for path in config.paths:
        fs, root = _file_system(path)
        with explained(path):
            for name, size in _asked(fs, path, partial(_expand, fs, root, path, config.format)):
                found[fs.unstrip_protocol(name)] = (fs, name, size)
    urls = sorted(found)
    shared = _shared_folders(urls[0], urls[-1])
    files = []
    for url in urls:
        fs, path, size = found[url]
        with explained(path):
            if _is_local(fs):
                check_regular(path)
            name = "/".join(url.split("/")[shared:])
            key = str(_asked(fs, url, partial(fs.ukey, path)))
            files.append(CorpusFile(fs, path, url, name, size, key, Layout.of(config, name)))
    return files


def format_of_name(name: str) -> str | None:
    """The format of data that a file's name says; None for one that may well be plain text."""
    name = plain_name(name)
    formats = (format for format, suffixes in SUFFIXES.items() if format != "text" and name.endswith(suffixes))
    return next(formats, None)


def _shared_folders(first: str, last: str) -> int:
    """How many leading folders two URLs share. Where they are the ends of a sorted list, all in it share them."""
    pairs = zip(first.split("/")[:-1], last.split("/")[:-1], strict=False)
    return len(list(itertools.takewhile(lambda pair: pair[0] == pair[1], pairs)))


def _file_system(path: str) -> tuple[Any, str]:
    try:
        fs, root = open_url(path)
    except (ImportError, ValueError, OSError) as error:
        raise CorpusError(f"cannot open corpus path {path}: {fault(error)}") from error
    return fs, os.path.normpath(root) if _is_local(fs) else root


def _is_local(fs: Any) -> bool:
    return "file" in ((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _is_streamed(fs: Any) -> bool:
    """A web server may not know ranges, but gives a file from its start."""
    return not {"http", "https"}.isdisjoint((fs.protocol,) if isinstance(fs.protocol, str) else fs.protocol)


def _asked(fs: Any, url: str, ask: Callable[[], T]) -> T:
    """What a file system answers; another machine's is asked again where that may help."""
    return ask() if _is_local(fs) else retried(ask, f"cannot read corpus path {url}")


def _whole(fs: Any, listing: Callable[..., dict[str, Any]], root: str) -> dict[str, Any]:
    """What fs.glob or fs.find lists. By default fsspec leaves out, without a word, the folders that it cannot list."""
    if _is_local(fs):
        return listing(root, detail=True)
    try:
        return listing(root, detail=True, on_error="raise")
    except FileNotFoundError as error:
        if not is_absent(error):
            raise
        return {}
    except TypeError:  # some list a whole tree in one request, which fails as a whole, and know no such argument
        return listing(root, detail=True)


def _kind(fs: Any, root: str) -> str | None:
    """file, directory, or None for what is not there; where fsspec's isfile takes every failure for an absence."""
    if _is_local(fs):
        return "file" if fs.isfile(root) else "directory" if fs.isdir(root) else None
    try:
        return str(fs.info(root)["type"])
    except FileNotFoundError as error:
        if not is_absent(error):
            raise
        return None


def _expand(fs: Any, root: str, path: str, format: str) -> list[tuple[str, int]]:
    kind = _kind(fs, root)
    if kind == "file":
        if (size := fs.size(root)) is None:
            raise CorpusError(f"the server of corpus path {path} does not tell its size; copy the file to a folder")
        return [(root, int(size))]
    if kind == "directory":
        return _inside(fs, root, path, format)
    if _is_local(fs) and os.path.exists(root):
        check_regular(root)
    if not any(sign in root for sign in "*?["):
        raise CorpusError(
            f"got corpus path {path}, which does not exist; expected a file, folder, glob or URL", missing_path=True
        )
    matched = _whole(fs, fs.glob, root)
    files = [(name, int(info["size"])) for name, info in matched.items() if info["type"] == "file"]
    if not files:
        raise CorpusError(f"got corpus glob {path}, which matches no file; expected at least one", missing_path=True)
    return files


def _inside(fs: Any, root: str, path: str, format: str) -> list[tuple[str, int]]:
    below = {name: info for name, info in _whole(fs, fs.find, root).items() if not _hidden(name, root)}
    suffixes = SUFFIXES[format]
    files = [(name, int(info["size"])) for name, info in below.items() if plain_name(name).endswith(suffixes)]
    if not files:
        other = f"; it has {posixpath.basename(min(below))}" if below else "; it is empty"
        raise CorpusError(
            f"got corpus folder {path} with no {' or '.join(suffixes)} file in it{other}; expected format {format}: "
            f"set corpus.format, or name the files with a glob such as {path.rstrip('/')}/*"
        )
    return files


def _hidden(name: str, root: str) -> bool:
    return any(part[:1] in (".", "_") for part in name[len(root) :].split("/"))
