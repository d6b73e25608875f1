"""What a repository of the Hub holds, file by file, and what it may hold."""

import hashlib
from collections import Counter
from collections.abc import Collection, Iterator
from itertools import chain
from typing import Any, NamedTuple

from kdcache.errors import CacheError
from kdcache.share.contents import Pinned, cache_json, count, first, last, units
from kdcache.store.manifest import Manifest

__all__ = ["MOST_FILES", "MOST_IN_A_FOLDER", "Entry", "check_limits", "git_sha1"]

MOST_FILES, MOST_IN_A_FOLDER, MOST_BYTES = 100_000, 10_000, 50 * 10**9
"""What the Hub's pages on storage ask of a repository, a folder and a file."""
BESIDE = 2
"""The card and the mark of the folder."""


class Entry(NamedTuple):
    """A file of a repository. size: its bytes. sha1: git's digest. sha256: of a large one, which git points to."""

    size: int
    sha1: str
    sha256: str | None

    @classmethod
    def of(cls, found: Any) -> "Entry":
        """Of what huggingface_hub lists."""
        return cls(found.size, found.blob_id, found.lfs.sha256 if found.lfs else None)

    def is_of(self, data: bytes) -> bool:
        """Whether the file has these bytes."""
        if self.size != len(data):
            return False
        return self.sha256 == hashlib.sha256(data).hexdigest() if self.sha256 else self.sha1 == git_sha1(data)

    def may_be(self, file: Pinned) -> bool | None:
        """Whether it is this file; None where its bytes are to be compared."""
        if file.bytes is not None and self.size != file.bytes:
            return False
        return None if self.sha256 is None or file.sha256 is None else self.sha256 == file.sha256


def git_sha1(data: bytes) -> str:
    """How git names a file of these bytes."""
    return hashlib.sha1(b"blob %d\0" % len(data) + data).hexdigest()


def check_limits(manifest: Manifest, path: str, there: Collection[str]) -> None:
    """Before anything is sent.

    Args:
        manifest: Of the cache.
        path: Of the copy in the repository.
        there: The files that the repository has already.

    Raises:
        CacheError: The repository would have more files than the Hub takes, or a larger one.
    """
    remedy = "on the Hub: dump with larger units (corpus.unit_rows), or push it to a store"
    number = count(manifest)[0] + BESIDE
    if number <= MOST_FILES:
        names = {f"{path}/{file.name}".lstrip("/") for file in _files(manifest)} | {*there}
        number = len(names) + BESIDE
        folder, most = Counter(name.rpartition("/")[0] for name in names).most_common(1)[0]
        if most > MOST_IN_A_FOLDER:
            where = folder or "one folder"
            raise CacheError(f"got {most:,} files in {where}, expected at most {MOST_IN_A_FOLDER:,} {remedy}")
    if number > MOST_FILES:
        raise CacheError(f"got {number:,} files in a repository, expected at most {MOST_FILES:,} {remedy}")
    if (size := int(manifest.shards.table["bytes"].max(initial=0))) > MOST_BYTES:
        raise CacheError(
            f"got a shard of {size / 1e9:.3g} GB, expected at most {MOST_BYTES / 1e9:g} on the Hub: dump with smaller "
            "units (corpus.unit_rows)"
        )


def _files(manifest: Manifest) -> Iterator[Pinned]:
    yield from chain(first(manifest), chain.from_iterable(units(manifest)), last(manifest), [cache_json(manifest)])
