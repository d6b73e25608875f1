"""One shard file and its commit record: bytes -> checked Batch, and back."""

import hashlib
from collections.abc import Mapping, Sequence

import numpy as np

from kdcache.errors import DamagedShardError, next_command, one_line
from kdcache.store.backend import backend, check_arrays, level_sizes
from kdcache.store.batch import Batch
from kdcache.store.files import Root
from kdcache.store.manifest import CommitRecord, Header, SkippedRow, canonical
from kdcache.store.score import unit_score
from kdcache.targets.fields import Level

__all__ = [
    "commit_shard",
    "decode_shard",
    "fetch_shard",
    "make_shard",
    "mismatch",
    "record_name",
    "repair_command",
    "shard_name",
]

COUNTED: dict[str, Level] = {"examples": "example", "tokens": "token", "positions": "position", "entries": "entry"}


def shard_name(header: Header, unit: int) -> str:
    return f"shards/{unit:06d}{backend(header.backend).suffix}"


def record_name(unit: int) -> str:
    return f"shards/{unit:06d}.json"


def repair_command(root: Root) -> str:
    """What to type where a file of a finished cache is missing or damaged."""
    return next_command("verify", root.url, "--repair")


def mismatch(commit: CommitRecord, data: bytes, *, digest: bool = True) -> str | None:
    """How these bytes differ from the committed ones; None if they do not. digest: compare the sha256 too."""
    if len(data) != commit.bytes:
        return f"got {len(data)} bytes, expected {commit.bytes}"
    if digest and (got := hashlib.sha256(data).hexdigest()) != commit.sha256:
        return f"got sha256 {got[:12]}…, expected {commit.sha256[:12]}…"
    return None


def fetch_shard(root: Root, commit: CommitRecord, *, digest: bool = True) -> bytes:
    """The bytes of a shard's file. Raises DamagedShardError where they are not what was committed, or missing."""
    try:
        data = root.read(commit.file, wrong=lambda data: mismatch(commit, data, digest=digest))
    except FileNotFoundError:
        raise DamagedShardError(f"{root.url}/{commit.file} is missing; {repair_command(root)}") from None
    if fault := mismatch(commit, data, digest=digest):
        raise DamagedShardError(f"{root.url}/{commit.file} is damaged: {fault}; {repair_command(root)}")
    return data


def decode_shard(root: Root, header: Header, commit: CommitRecord, data: bytes) -> Batch:
    """The examples in bytes that `mismatch` found right. Raises DamagedShardError where they do not hold them."""
    where, remedy = f"{root.url}/{commit.file} is damaged", repair_command(root)
    try:
        arrays = backend(header.backend).decode(header.fields, data)
        check_arrays(header.fields, arrays)
    except Exception as error:  # whatever the library raises for bytes that are not its format
        raise DamagedShardError(f"{where}: {one_line(error)}; {remedy}") from error
    counts = _counts(header, arrays)
    for name, count in counts.items():
        if count != getattr(commit, name):
            raise DamagedShardError(f"{where}: got {count} {name}, expected {getattr(commit, name)}; {remedy}")
    return Batch(header.fields, arrays, header.records, header.num_classes)


def make_shard(
    header: Header,
    unit: int,
    arrays: Mapping[str, np.ndarray],
    *,
    source_sha256: str = "",
    notes: Mapping[str, int] | None = None,
    skipped: Sequence[SkippedRow] = (),
    made_under: Mapping[str, str] | None = None,
) -> tuple[bytes, CommitRecord]:
    """The bytes of a shard, and the commit record that belongs to them; nothing is written."""
    check_arrays(header.fields, arrays)
    data = backend(header.backend).encode(header.fields, arrays)
    return data, CommitRecord(
        unit=unit,
        file=shard_name(header, unit),
        **_counts(header, arrays),
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        source_sha256=source_sha256,
        header_sha256=header.digest(),
        notes=dict(notes or {}),
        score=unit_score(header, arrays),
        skipped=tuple(skipped) or None,
        made_under=dict(made_under) if made_under else None,
    )


def commit_shard(root: Root, data: bytes, commit: CommitRecord) -> CommitRecord:
    """Write what `make_shard` gave, the shard and then its commit record, each atomically; an older record goes before.

    Raises CacheError if the disk refuses.
    """
    if root.exists(record_name(commit.unit)):
        root.delete(record_name(commit.unit))
    root.write(commit.file, data)
    root.write(record_name(commit.unit), canonical(commit))
    return commit


def _counts(header: Header, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    sizes = level_sizes(header.fields, arrays)
    return {name: sizes.get(level, 0) for name, level in COUNTED.items()}
