"""A copy of a cache from a folder or store to another one, file by file; each is checked on its way.

What is there already stays. On a disk that is a file whose bytes have the digest. In a store a shard would have to be
fetched to know that; there it is one of the right size beside a commit record of the right bytes, since the record is
put after the shard, and each appears whole or not at all. `kdcache verify` reads everything.
"""

import threading
import time
from collections.abc import Iterable, Sequence
from functools import lru_cache

from kdcache.progress import Progress, counted
from kdcache.share.contents import CACHE_JSON, Pinned, count, fault_of, first, last, read_checked, units
from kdcache.store.files import Root
from kdcache.store.finished import mark_finished
from kdcache.store.limits import most_of
from kdcache.store.manifest import Manifest, canonical
from kdcache.store.parallel import in_order
from kdcache.store.places import sweep_leftovers

__all__ = ["Moved", "copy_cache", "finish"]

AT_ONCE = 1 << 30
"""Bytes of shards in memory, about."""
MOST_THREADS = 16


class Moved:
    """What a copy has done so far, and the bar that says it. files, bytes: sent. there: files that were there."""

    def __init__(self, manifest: Manifest, title: str) -> None:
        number, self._total = count(manifest)
        self._digest = manifest.digest()
        self.progress = Progress(number, "files", title)
        self.files = self.bytes = self.there = 0
        self._begin = time.monotonic()
        self._lock = threading.Lock()

    def __enter__(self) -> "Moved":
        self.progress.__enter__()
        return self

    def __exit__(self, *error: object) -> None:
        self.progress.__exit__(*error)  # type: ignore[arg-type]

    def said(self, place: str, done: str) -> str:
        """What a person is told at the end."""
        there = f", {counted(self.there, 'file')} there already" if self.there else ""
        return f"{place}: {counted(self.files, 'file')} {done}, {self.bytes / 1e6:,.2f} MB{there}; cache {self._digest}"

    def kept(self, files: int = 1) -> None:
        with self._lock:
            self.there += files
            self.progress.advance(files)

    def sent(self, size: int, files: int = 1) -> None:
        with self._lock:
            self.files += files
            self.bytes += size
            rate = self.bytes / 1e6 / max(time.monotonic() - self._begin, 1e-3)
            done = f"{self.bytes / 1e6:,.1f} of {self._total / 1e6:,.1f}"
            self.progress.set(MB=done, **{"MB/s": f"{rate:,.1f}"})
            self.progress.advance(files)


class _Copy:
    """From `source` to `target`. remedy: what helps where the source is damaged."""

    def __init__(self, source: Root, target: Root, moved: Moved, remedy: str) -> None:
        self.source, self.target, self.moved, self.remedy = source, target, moved, remedy
        self.sizes = lru_cache(maxsize=4)(target.sizes)

    def unit(self, files: tuple[Pinned, Pinned]) -> None:
        """A shard, and then its commit record."""
        if not self.target.remote:
            return self.each(files)
        if all(self._has_size(file) for file in files) and self._has(files[1]):
            return self.moved.kept(2)
        for file in files:
            self._send(file)
        return None

    def each(self, files: Iterable[Pinned]) -> None:
        for file in files:
            if self._has_size(file) and self._has(file):
                self.moved.kept()
            else:
                self._send(file)

    def _has_size(self, file: Pinned) -> bool:
        folder, _, name = file.name.rpartition("/")
        size = self.sizes(folder).get(name)
        return size is not None and file.bytes in (None, size)

    def _has(self, file: Pinned) -> bool:
        """By its bytes."""
        data = self.target.read(file.name, file.bytes if file.bytes is not None else most_of(file.name))
        if file.sha256 is None:
            return data == read_checked(self.source, file, self.remedy)
        return fault_of(file, data) is None

    def _send(self, file: Pinned) -> None:
        data = read_checked(self.source, file, self.remedy)
        self.target.write(file.name, data)
        self.moved.sent(len(data))


def copy_cache(source: Root, target: Root, manifest: Manifest, moved: Moved, remedy: str) -> None:
    """Everything but cache.json, several shards at the same time; an error leaves what was copied.

    Args:
        source: The cache.
        target: Where the copy is made, by who holds the place.
        manifest: What the source's cache.json says.
        moved: Counts what is done.
        remedy: What helps where the source is damaged.

    Raises:
        CacheError: A file of the source is missing, damaged or cannot be read, or the copy cannot be written.
    """
    copy = _Copy(source, target, moved, remedy)
    copy.each(first(manifest))
    for _ in in_order(copy.unit, units(manifest), threads_for([*manifest.shards.table["bytes"].tolist()])):
        pass
    copy.each(last(manifest))


def finish(target: Root, manifest: Manifest, moved: Moved) -> None:
    """Write cache.json, and so make the copy a cache; what killed copies left behind goes."""
    sweep_leftovers(target)
    data = canonical(manifest)
    mark_finished(target, manifest)
    if target.exists(CACHE_JSON) and target.read(CACHE_JSON) == data:
        moved.kept()
        return
    target.write(CACHE_JSON, data)
    moved.sent(len(data))


def threads_for(sizes: Sequence[int]) -> int:
    """How many shards are on their way at the same time, so that they fit AT_ONCE."""
    return max(1, min(MOST_THREADS, AT_ONCE // (2 * max(sizes, default=1) + 1)))
