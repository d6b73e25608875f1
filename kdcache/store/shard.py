"""One shard file and its commit record: bytes -> checked Batches, a block at a time, and back.

A shard holds its stamp: its unit, the digest of its header, and that of its commit record but for the keys that depend
on the file itself; a block holds it too, with its number. So a commit record, a header and a shard belong to each other
or to nobody: none of them can be edited or exchanged without writing the shard anew, whatever digests a forger puts
into cache.json.

P positions.
"""

import contextlib
import hashlib
from collections.abc import Iterator, Mapping, Sequence
from typing import Any

import numpy as np

from kdcache.errors import CacheError, DamagedShardError, next_command, one_line
from kdcache.progress import counted
from kdcache.store.backend import Layout, Part, Restamps, Stamp, backend, check_arrays, check_stamp, level_sizes
from kdcache.store.batch import Batch
from kdcache.store.blocks import COUNTED, Block, Place, cut, examples_of_a_block
from kdcache.store.content import content_fault
from kdcache.store.files import Root, UnexpectedFile
from kdcache.store.limits import check_room
from kdcache.store.manifest import OF_THE_FILE, CommitRecord, Header, SkippedRow, canonical
from kdcache.store.places import record_name, shard_name
from kdcache.store.score import unit_score
from kdcache.targets.fields import Level
from kdcache.tasks.score import Score

__all__ = [
    "commit_shard",
    "decode_block",
    "decode_shard",
    "fetch_part",
    "fetch_shard",
    "make_shard",
    "mismatch",
    "part_fault",
    "repair_command",
    "shard_faults",
    "with_another_stamp",
]

SHOWN = 4
"""Of how many damaged blocks of a shard a line each is said."""


def repair_command(root: Root) -> str:
    """What to type where a file of a finished cache is missing or damaged."""
    return next_command("verify", root.url, "--repair")


def mismatch(commit: CommitRecord, data: bytes, *, digest: bool = True) -> str | None:
    """How these bytes differ from the committed ones; None if they do not. digest: compare the sha256 too."""
    if len(data) != commit.bytes:
        return f"got {len(data)} bytes, expected {commit.bytes}"
    return _digest_fault(data, commit.sha256) if digest else None


def fetch_shard(root: Root, header: Header, commit: CommitRecord, *, digest: bool = True) -> bytes:
    """The bytes of a shard's file. Raises DamagedShardError where they are not what was committed, or missing."""
    check_room(f"{root.url}/{commit.file}", header.fields, _sizes(commit), commit.bytes)
    with _damage(root, commit):
        data = root.read(commit.file, commit.bytes, wrong=lambda data: mismatch(commit, data, digest=digest))
        _raise(mismatch(commit, data, digest=digest))
    return data


def fetch_part(root: Root, commit: CommitRecord, place: Place, *, digest: bool = True) -> bytes:
    """The bytes of one range of a shard's file, such as a block: nothing else of it is read.

    Args:
        root: The cache.
        commit: The commit record of the shard.
        place: A block, or the frame.
        digest: Compare its sha256.

    Raises:
        DamagedShardError: They are not what was committed, or missing.
    """

    def wrong(data: bytes) -> str | None:
        return part_fault(place, data, digest=digest)

    with _damage(root, commit):
        data = root.read_part(commit.file, place.start, place.bytes, commit.bytes, wrong=wrong)
        _raise(wrong(data))
    return data


def part_fault(place: Place, data: bytes | memoryview, *, digest: bool = True) -> str | None:
    """How these bytes differ from those that a commit record names; None if they do not."""
    if len(data) != place.bytes:
        return f"got {len(data)} bytes at {place.start}, expected {place.bytes}"
    fault = _digest_fault(data, place.sha256) if digest else None
    return fault and f"{fault}, of its bytes {place.start} to {place.stop}"


def decode_block(
    root: Root, header: Header, commit: CommitRecord, index: int, data: bytes | memoryview, frame: bytes | None = None
) -> Batch:
    """The examples of a block, checked.

    Args:
        root: The cache.
        header: Of the cache.
        commit: The commit record of the shard.
        index: The number of the block, from 0.
        data: Bytes in which `part_fault` found no fault.
        frame: Those of the file's frame, where it has one.

    Raises:
        DamagedShardError: They do not hold this block of this shard under this header.
    """
    block = commit.block(index)
    check_room(f"{root.url}/{commit.file}", header.fields, block.sizes, block.bytes)
    around = None if commit.around is None or frame is None else Part(commit.around.start, memoryview(frame))
    with _damage(root, commit, f"block {index}: " if len(commit.blocks) > 1 else ""):
        part = Part(block.start, memoryview(data))
        arrays, stamp = backend(header.backend).decode(header.fields, part, around, block.sizes)
        check_arrays(header.fields, arrays)
        found, expected = level_sizes(header.fields, arrays), block.sizes
        different = (
            f"got {found.get(level, 0)} {name}, expected {expected[level]}"
            for name, level in COUNTED.items()
            if found.get(level, 0) != expected[level]
        )
        _raise(next(different, None))
        _raise(check_stamp(stamp, {**_stamp(commit), "block": index}))
        _raise(content_fault(header, arrays))
    return Batch(header.fields, arrays, header.records, header.num_classes)


def decode_shard(root: Root, header: Header, commit: CommitRecord, data: bytes) -> Iterator[Batch]:
    """The blocks of bytes that `mismatch` found right, one after the other, checked as `decode_block` does."""
    blocks, frame = _laid_out(root, header, commit, data, digests=False)
    for index, block in enumerate(blocks):
        yield decode_block(root, header, commit, index, block, frame)


def shard_faults(root: Root, header: Header, commit: CommitRecord, data: bytes) -> Iterator[DamagedShardError]:
    """What is wrong with bytes that `mismatch` found right: the first fault of each block, of `SHOWN` blocks at most.

    The digests of the blocks are compared too, which the file's own answers for unless a forger wrote them.
    """
    try:
        blocks, frame = _laid_out(root, header, commit, data, digests=True)
    except DamagedShardError as error:
        yield error
        return
    damaged = 0
    for index, block in enumerate(blocks):
        try:
            decode_block(root, header, commit, index, block, frame)
        except DamagedShardError as error:
            damaged += 1
            if damaged <= SHOWN:
                yield error
    if damaged > SHOWN:
        more = counted(damaged - SHOWN, "more block")
        yield DamagedShardError(f"{root.url}/{commit.file} is damaged in {more}; {repair_command(root)}")


def _laid_out(
    root: Root, header: Header, commit: CommitRecord, data: bytes, *, digests: bool
) -> tuple[list[memoryview], bytes | None]:
    """The blocks and the frame of a shard, which lie where its commit record says. Raises DamagedShardError.

    digests: compare theirs.
    """
    whole = memoryview(data)
    with _damage(root, commit):
        layout = backend(header.backend).layout(header.fields, data)
        places = [commit.block(index) for index in range(len(commit.blocks))]
        around = None if commit.around is None else (commit.around.start, commit.around.bytes)
        if layout != Layout(tuple((place.start, place.bytes) for place in places), around):
            raise ValueError("got blocks at other places than its commit record says")
        for place in [*places, *([commit.around] if commit.around else [])]:
            _raise(part_fault(place, whole[place.start : place.stop], digest=digests))
    frame = None if commit.around is None else bytes(whole[commit.around.start : commit.around.stop])
    return [whole[place.start : place.stop] for place in places], frame


def make_shard(
    header: Header,
    unit: int,
    arrays: Mapping[str, np.ndarray],
    *,
    source_sha256: str = "",
    notes: Mapping[str, int] | None = None,
    skipped: Sequence[SkippedRow] = (),
    made_under: Mapping[str, str] | None = None,
    taken: Sequence[str] = (),
    score: Score | None = None,
) -> tuple[bytes, CommitRecord]:
    """The bytes of a shard, and the commit record that belongs to them; nothing is written.

    score: of these arrays, where it is known; computing it takes longer than all the rest.
    """
    check_arrays(header.fields, arrays)
    counts, store = _counts(header, arrays), backend(header.backend)
    size = examples_of_a_block(header.block_examples, header.fields, arrays)
    values: dict[str, Any] = {
        "unit": unit,
        "file": shard_name(header, unit),
        **counts,
        "block_examples": size,
        "source_sha256": source_sha256,
        "header_sha256": header.digest(),
        "notes": dict(notes or {}),
        "score": unit_score(header, arrays) if score is None else score,
        "skipped": tuple(skipped) or None,
        "made_under": dict(made_under) if made_under else None,
        "taken": tuple(taken) or None,
    }
    blocks = cut(header.fields, arrays, size)
    data = store.encode(header.fields, blocks, _stamp(CommitRecord.model_construct(**values)))
    return _recorded(header, values, data, [level_sizes(header.fields, block) for block in blocks])


def with_another_stamp(
    root: Root, source: Header, commit: CommitRecord, data: bytes, header: Header, unit: int
) -> tuple[bytes, CommitRecord]:
    """A shard of one cache as that of another: the same blocks, down to the compressed bytes, with another stamp.

    Args:
        root: The cache that it is of.
        source: Its header.
        commit: The commit record of the shard.
        data: Bytes that `mismatch` found right.
        header: Of the other cache, which has the same fields, and a backend that `restamps`.
        unit: The number of the shard there.

    Raises:
        DamagedShardError: They are not this shard of this cache.
    """
    store = backend(header.backend)
    assert isinstance(store, Restamps)
    kept = {name: getattr(commit, name) for name in CommitRecord.model_fields if name not in OF_THE_FILE}
    values = kept | {"unit": unit, "file": shard_name(header, unit), "header_sha256": header.digest()}
    with _damage(root, commit):
        _laid_out(root, source, commit, data, digests=False)
        stamps = _stamp(commit), _stamp(CommitRecord.model_construct(**values))
        again = store.restamp(source.fields, data, *stamps)
    sizes = [commit.block(index).sizes for index in range(len(commit.blocks))]
    return _recorded(header, values, again, sizes)


def _recorded(
    header: Header, values: Mapping[str, Any], data: bytes, sizes: Sequence[Mapping[Level, int]]
) -> tuple[bytes, CommitRecord]:
    """The bytes of a shard with its commit record. sizes: of each block."""
    layout = backend(header.backend).layout(header.fields, data)
    places = [Block(*_place(data, at), of_it) for at, of_it in zip(layout.blocks, sizes, strict=True)]
    commit = CommitRecord(
        **values,
        bytes=len(data),
        sha256=hashlib.sha256(data).hexdigest(),
        blocks=tuple(map(str, places)),
        frame=None if layout.frame is None else str(Place(*_place(data, layout.frame))),
    )
    check_room(commit.file, header.fields, _sizes(commit), len(data))
    return data, commit


def _place(data: bytes, at: tuple[int, int]) -> tuple[int, int, str]:
    start, length = at
    return start, length, hashlib.sha256(memoryview(data)[start : start + length]).hexdigest()


def commit_shard(root: Root, data: bytes, commit: CommitRecord) -> CommitRecord:
    """Write what `make_shard` gave, the shard and then its commit record, each atomically; another record goes before.

    What is there already with the same bytes, by a writer with the same settings, stays. Raises CacheError if the disk
    refuses.
    """
    name, record, recorded = record_name(commit.unit), canonical(commit), False
    if root.exists(name):
        recorded = _holds(root, name, record)
        if recorded and _holds(root, commit.file, data):
            return commit
        if not recorded:
            root.delete(name)
    root.write(commit.file, data)
    if not recorded:
        root.write(name, record)
    return commit


def _holds(root: Root, name: str, data: bytes) -> bool:
    """Whether a file is there and has these bytes."""
    try:
        return root.read(name, len(data)) == data
    except (FileNotFoundError, UnexpectedFile):
        return False


def _stamp(commit: CommitRecord) -> Stamp:
    """What the shard of a commit record holds of it."""
    return {"unit": commit.unit, "header_sha256": commit.header_sha256, "record_sha256": commit.content_sha256}


def _sizes(commit: CommitRecord) -> dict[Level, int]:
    return {level: getattr(commit, name) for name, level in COUNTED.items()}


def _counts(header: Header, arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    sizes = level_sizes(header.fields, arrays)
    return {name: sizes.get(level, 0) for name, level in COUNTED.items()}


def _digest_fault(data: bytes | memoryview, sha256: str) -> str | None:
    got = hashlib.sha256(data).hexdigest()
    return None if got == sha256 else f"got sha256 {got[:12]}…, expected {sha256[:12]}…"


def _raise(fault: str | None) -> None:
    if fault:
        raise ValueError(fault)


@contextlib.contextmanager
def _damage(root: Root, commit: CommitRecord, what: str = "") -> Iterator[None]:
    """Whatever goes wrong with the bytes of a shard is said of that shard. what: of a part of it."""
    where, remedy = f"{root.url}/{commit.file}", repair_command(root)
    try:
        yield
    except FileNotFoundError:
        raise DamagedShardError(f"{where} is missing; {remedy}") from None
    except UnexpectedFile as error:
        fault = str(error).removeprefix(f"cannot read {where}: ").replace("at most ", "")
        raise DamagedShardError(f"{where} is damaged: {fault}; {remedy}") from None
    except CacheError:  # what cannot be read now says nothing of its bytes
        raise
    except Exception as error:  # whatever the library raises for bytes that are not its format
        raise DamagedShardError(f"{where} is damaged: {what}{one_line(error, 300)}; {remedy}") from error
