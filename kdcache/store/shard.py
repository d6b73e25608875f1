"""One shard file and its commit record: bytes -> checked Batch, and back.

A shard holds its stamp: its unit, the digest of its header, and that of its commit record but for the two keys that
depend on the file itself. So a commit record, a header and a shard belong to each other or to nobody: none of them can
be edited or exchanged without writing the shard anew, whatever digests a forger puts into cache.json.

P positions.
"""

import hashlib
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdcache.errors import DamagedShardError, next_command, one_line
from kdcache.store.backend import Stamp, backend, check_arrays, check_stamp, level_sizes
from kdcache.store.batch import Batch
from kdcache.store.blocks import COUNTED, Block
from kdcache.store.content import content_fault
from kdcache.store.files import Root, UnexpectedFile
from kdcache.store.limits import check_room
from kdcache.store.manifest import CommitRecord, Header, SkippedRow, canonical
from kdcache.store.places import record_name, shard_name
from kdcache.store.score import unit_score
from kdcache.targets.fields import Level

__all__ = [
    "commit_shard",
    "decode_shard",
    "fetch_shard",
    "make_shard",
    "mismatch",
    "repair_command",
]

OF_THE_FILE = ("bytes", "sha256", "blocks")


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


def fetch_shard(root: Root, header: Header, commit: CommitRecord, *, digest: bool = True) -> bytes:
    """The bytes of a shard's file. Raises DamagedShardError where they are not what was committed, or missing."""
    where = f"{root.url}/{commit.file}"
    check_room(where, header.fields, _sizes(commit), commit.bytes)
    try:
        data = root.read(commit.file, commit.bytes, wrong=lambda data: mismatch(commit, data, digest=digest))
    except FileNotFoundError:
        raise DamagedShardError(f"{where} is missing; {repair_command(root)}") from None
    except UnexpectedFile as error:
        fault = str(error).removeprefix(f"cannot read {where}: ").replace("at most ", "")
        raise DamagedShardError(f"{where} is damaged: {fault}; {repair_command(root)}") from None
    if fault_ := mismatch(commit, data, digest=digest):
        raise DamagedShardError(f"{where} is damaged: {fault_}; {repair_command(root)}")
    return data


def decode_shard(root: Root, header: Header, commit: CommitRecord, data: bytes) -> Batch:
    """The examples in bytes that `mismatch` found right. Raises DamagedShardError where they do not hold them."""
    where, remedy = f"{root.url}/{commit.file}", repair_command(root)
    sizes = _sizes(commit)
    check_room(where, header.fields, sizes, len(data))
    try:
        arrays, stamp = backend(header.backend).decode(header.fields, data, sizes)
        check_arrays(header.fields, arrays)
        counts = _counts(header, arrays)
        fault = _first_difference(counts, {name: getattr(commit, name) for name in COUNTED})
        fault = fault or check_stamp(stamp, _stamp(commit)) or content_fault(header, arrays)
    except Exception as error:  # whatever the library raises for bytes that are not its format
        raise DamagedShardError(f"{where} is damaged: {one_line(error, 300)}; {remedy}") from error
    if fault:
        raise DamagedShardError(f"{where} is damaged: {fault}; {remedy}")
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
    counts = _counts(header, arrays)
    values: dict[str, Any] = {
        "unit": unit,
        "file": shard_name(header, unit),
        **counts,
        "block_examples": max(1, counts["examples"]),
        "source_sha256": source_sha256,
        "header_sha256": header.digest(),
        "notes": dict(notes or {}),
        "score": unit_score(header, arrays),
        "skipped": tuple(skipped) or None,
        "made_under": dict(made_under) if made_under else None,
    }
    draft = CommitRecord.model_construct(**values)
    data = backend(header.backend).encode(header.fields, arrays, _stamp(draft))
    sha256 = hashlib.sha256(data).hexdigest()
    blocks = [Block(0, len(data), sha256, _sizes(draft))]
    commit = CommitRecord(**values, bytes=len(data), sha256=sha256, blocks=tuple(map(str, blocks)))
    check_room(commit.file, header.fields, _sizes(commit), len(data))
    return data, commit


def commit_shard(root: Root, data: bytes, commit: CommitRecord) -> CommitRecord:
    """Write what `make_shard` gave, the shard and then its commit record, each atomically; an older record goes before.

    Raises CacheError if the disk refuses.
    """
    if root.exists(record_name(commit.unit)):
        root.delete(record_name(commit.unit))
    root.write(commit.file, data)
    root.write(record_name(commit.unit), canonical(commit))
    return commit


def _stamp(commit: CommitRecord) -> Stamp:
    """What the shard of a commit record holds of it."""
    digest = hashlib.sha256(canonical(commit, exclude=OF_THE_FILE)).hexdigest()
    return {"unit": commit.unit, "header_sha256": commit.header_sha256, "record_sha256": digest}


def _sizes(commit: CommitRecord) -> dict[Level, int]:
    return {level: getattr(commit, name) for name, level in COUNTED.items()}


def _counts(header: Header, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    sizes = level_sizes(header.fields, arrays)
    return {name: sizes.get(level, 0) for name, level in COUNTED.items()}


def _first_difference(counts: Mapping[str, int], expected: Mapping[str, int]) -> str | None:
    different = [
        f"got {counts[name]} {name}, expected {count}" for name, count in expected.items() if counts[name] != count
    ]
    return different[0] if different else None
