"""The files of a finished cache, in the order in which a copy takes them, and the check that each passes."""

import hashlib
from collections.abc import Iterator
from itertools import chain
from typing import NamedTuple

from kdcache.errors import CacheError, DamagedShardError
from kdcache.store.files import Root, UnexpectedFile
from kdcache.store.limits import most_of
from kdcache.store.manifest import Manifest, canonical
from kdcache.store.places import record_name
from kdcache.store.skipped import SKIPPED

__all__ = [
    "CACHE_JSON",
    "Pinned",
    "cache_json",
    "check_sizes",
    "count",
    "fault_of",
    "first",
    "last",
    "read_checked",
    "units",
]

CACHE_JSON = "cache.json"


class Pinned(NamedTuple):
    """A file of a cache.

    Attributes:
        name: In the cache.
        sha256: None of skipped.jsonl, which has words for people; its first line names the cache.
        bytes: None where nothing says its size.
    """

    name: str
    sha256: str | None
    bytes: int | None


def first(manifest: Manifest) -> list[Pinned]:
    """What is there before the first shard; the header last."""
    header = manifest.header
    files = header.tokenizer.files if header.tokenizer else {}
    found = [Pinned(f"tokenizer/{name}", sha256, None) for name, sha256 in files.items()]
    if header.basis is not None:
        found.append(Pinned(header.basis.file, header.basis.sha256, header.basis.bytes))
    data = canonical(header)
    return [*found, Pinned("header.json", hashlib.sha256(data).hexdigest(), len(data))]


def units(manifest: Manifest) -> Iterator[tuple[Pinned, Pinned]]:
    """Each shard with its commit record."""
    shards = manifest.shards
    for unit in range(len(shards)):
        yield (
            Pinned(shards.file(unit), shards.digest("sha256", unit), shards.number("bytes", unit)),
            Pinned(record_name(unit), shards.digest("record_sha256", unit), shards.number("record_bytes", unit)),
        )


def last(manifest: Manifest) -> list[Pinned]:
    """What is written when every shard is there, but for cache.json."""
    pin = manifest.table
    left_out = any(besides.skipped for _, besides in manifest.shards.besides())
    return [Pinned(pin.file, pin.sha256, pin.bytes), *([Pinned(SKIPPED, None, None)] if left_out else [])]


def cache_json(manifest: Manifest) -> Pinned:
    return Pinned(CACHE_JSON, manifest.digest(), len(canonical(manifest)))


def count(manifest: Manifest) -> tuple[int, int]:
    """How many files there are, and about how many bytes: those of the shards."""
    return len(first(manifest)) + 2 * len(manifest.shards) + len(last(manifest)) + 1, manifest.totals.bytes


def fault_of(file: Pinned, data: bytes) -> str | None:
    """What is wrong with the bytes of a file; None where they are the pinned ones, or nothing pins them."""
    if file.bytes is not None and len(data) != file.bytes:
        return f"got {len(data)} bytes, expected {file.bytes}"
    if file.sha256 is not None and (got := hashlib.sha256(data).hexdigest()) != file.sha256:
        return f"got sha256 {got[:12]}…, expected {file.sha256[:12]}…"
    return None


def read_checked(root: Root, file: Pinned, remedy: str) -> bytes:
    """The bytes of a file, which are the pinned ones; wrong ones of a store are fetched again before that is said.

    Args:
        root: The cache.
        file: What is read of it.
        remedy: What helps against wrong bytes.

    Raises:
        DamagedShardError: They are others.
        CacheError: It is missing.
    """
    most = file.bytes if file.bytes is not None else most_of(file.name)
    try:
        data = root.read(file.name, most, wrong=lambda data: fault_of(file, data))
    except FileNotFoundError:
        raise CacheError(f"{root.url}/{file.name} is missing; {remedy}") from None
    except UnexpectedFile as error:
        raise DamagedShardError(f"{error}; {remedy}") from None
    if (fault := fault_of(file, data)) is not None:
        raise DamagedShardError(f"{root.url}/{file.name} is damaged: {fault}; {remedy}")
    return data


def check_sizes(root: Root, manifest: Manifest, remedy: str) -> None:
    """That every file is in its place, with its size: folders are listed, and nothing is read.

    Raises CacheError for the first one that is not.
    """
    folder, sizes = "", root.sizes()
    for file in chain(first(manifest), chain.from_iterable(units(manifest)), last(manifest)):
        above, _, name = file.name.rpartition("/")
        if above != folder:
            folder, sizes = above, root.sizes(above)
        if name not in sizes:
            raise CacheError(f"{root.url}/{file.name} is missing; {remedy}")
        if file.bytes is not None and sizes[name] != file.bytes:
            raise DamagedShardError(
                f"{root.url}/{file.name} is damaged: got {sizes[name]} bytes, expected {file.bytes}; {remedy}"
            )
