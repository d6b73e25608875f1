"""Verify a cache: everything that can be checked without the teacher.

    cache.json     its entries belong to its header, its totals are theirs, header.json is the same
    tokenizer/     every file in place, sha256
    basis          in place, sha256, no number is NaN
    skipped.jsonl  the rows that the commit records say were left out
    shards/        every shard and commit record in place and as in cache.json: size, sha256, counts; nothing else, and
                   no leftovers of a killed writer in any folder
    in a shard     its stamp, and what content.py says of its arrays

It reads every byte once, 0.1–0.5 GB of shards per second, and writes nothing: repair.py does.
"""

import os
from collections.abc import Callable, Collection, Iterator
from dataclasses import dataclass

from kdcache.errors import CacheError, UnreadableError
from kdcache.store.basis_file import decode_basis, is_basis, read_basis
from kdcache.store.cache import read_manifest
from kdcache.store.files import Root, UnexpectedFile
from kdcache.store.manifest import CommitRecord, Header, Manifest, canonical
from kdcache.store.places import record_name, shard_folders
from kdcache.store.shard import fetch_shard, shard_faults
from kdcache.store.skipped import SKIPPED, read_skipped
from kdcache.store.tokenizer_files import read_tokenizer_file

__all__ = ["Fault", "verify"]

LEFT_OVER = "is left over from a killed writer"
STRANGE = "is not part of the cache"


@dataclass(frozen=True)
class Fault:
    """shard: the file that is wrong, by its name in the cache. what: one line. unreadable: it may be sound."""

    shard: str
    what: str
    unreadable: bool = False

    @property
    def is_stranger(self) -> bool:
        """Whether nothing of the cache is wrong, and this file is one too many."""
        return self.what in (LEFT_OVER, STRANGE)

    @property
    def needs_force(self) -> bool:
        """Whether a repair leaves the file alone: nobody knows whose it is."""
        return self.what == STRANGE


def verify(
    path: str | os.PathLike[str],
    progress: Callable[[int], object] | None = None,
    *,
    units: Collection[int] | None = None,
) -> list[Fault]:
    """The faults of a finished cache.

    Args:
        path: A folder, or any URL that fsspec reads.
        progress: Called with 1 after each shard.
        units: The shards to read, by default all.

    Returns:
        The faults, none for a sound cache.

    Raises:
        CacheError: It is no finished cache, or its cache.json is damaged.
        UnreadableError: A store does not answer, or refuses: nothing is known of the cache then. A file of a disk that
            cannot be read is a fault with `unreadable`, and the others are read.
    """
    root = Root(path)
    manifest = read_manifest(root)
    header, shards = manifest.header, manifest.shards
    faults = [*_pinned_faults(root, header)]
    for commit in shards:
        if units is None or commit.unit in units:
            faults += _shard_faults(root, header, commit)
            if progress:
                progress(1)
    return [*faults, *_skipped_faults(root, manifest), *_strangers(root, manifest)]


def _strangers(root: Root, manifest: Manifest) -> Iterator[Fault]:
    """Files that are none of the cache's: in the folders that are its own, and leftovers and old bases beside them."""
    header = manifest.header
    known = {name for commit in manifest.shards for name in (commit.file, record_name(commit.unit))}
    known |= {f"tokenizer/{name}" for name in (header.tokenizer.files if header.tokenizer else ())}
    folders = shard_folders(root)
    for sub in ("", *folders, "tokenizer"):
        yield from (Fault(f"{sub}/{name}".lstrip("/"), LEFT_OVER) for name in root.leftovers(sub))
    bases = {name for name in root.list() if is_basis(name)} - ({header.basis.file} if header.basis else set())
    found = {f"{sub}/{name}" for sub in (*folders, "tokenizer") for name in root.list(sub)} - known
    yield from (Fault(name, STRANGE) for name in sorted(bases | found))


def _fault(root: Root, name: str, error: CacheError) -> Fault:
    """Raises UnreadableError where a store does not answer: that says nothing of the file, nor of the others."""
    unreadable = isinstance(error, UnreadableError)
    if root.remote and unreadable:
        raise error
    return Fault(name, str(error), unreadable)


def _pinned_faults(root: Root, header: Header) -> Iterator[Fault]:
    yield from _differs(root, "header.json", canonical(header))
    for name, sha256 in (header.tokenizer.files if header.tokenizer else {}).items():
        try:
            read_tokenizer_file(root, name, sha256)
        except CacheError as error:
            yield _fault(root, f"tokenizer/{name}", error)
    if header.basis is not None:
        try:
            decode_basis(root, header, read_basis(root, header))
        except CacheError as error:
            yield _fault(root, header.basis.file, error)


def _skipped_faults(root: Root, manifest: Manifest) -> Iterator[Fault]:
    expected = {(commit.unit, row.row): row.why for commit in manifest.shards for row in commit.skipped or ()}
    try:
        if {row: why for row, (_, why) in read_skipped(root, manifest).items()} != expected:
            yield Fault(SKIPPED, "does not list the rows that cache.json says were left out")
    except CacheError as error:
        yield _fault(root, SKIPPED, error)


def _shard_faults(root: Root, header: Header, commit: CommitRecord) -> Iterator[Fault]:
    yield from _differs(root, record_name(commit.unit), canonical(commit))
    try:
        data = fetch_shard(root, header, commit)
        yield from (_fault(root, commit.file, error) for error in shard_faults(root, header, commit, data))
    except CacheError as error:
        yield _fault(root, commit.file, error)


def _differs(root: Root, name: str, expected: bytes) -> Iterator[Fault]:
    try:
        if root.read(name, len(expected)) != expected:
            yield Fault(name, "is not what cache.json says")
    except UnexpectedFile:
        yield Fault(name, "is not what cache.json says")
    except FileNotFoundError:
        yield Fault(name, "is missing")
    except UnreadableError as error:
        yield _fault(root, name, error)
