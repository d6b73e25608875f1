"""A lost commit record, made again of its shard's own bytes and of its row in the table.

The table has the digest of the shard and of the record; the places, digests and counts of the blocks and the teacher's
score are computed anew. What comes out has the recorded digest or does not count.
"""

import hashlib

from kdcache.errors import CacheError
from kdcache.store.backend import Part, backend
from kdcache.store.batch import Batch, concat
from kdcache.store.blocks import Block, Place
from kdcache.store.files import Root
from kdcache.store.limits import check_room
from kdcache.store.manifest import CommitRecord, Manifest, canonical
from kdcache.store.score import unit_score

__all__ = ["rebuilt_record"]


def rebuilt_record(root: Root, manifest: Manifest, unit: int) -> bytes | None:
    """The bytes of the commit record of a shard.

    Returns:
        Those with the digest that the table has; None where the shard is lost too, or gives another record.
    """
    header, shards = manifest.header, manifest.shards
    try:
        check_room(shards.file(unit), header.fields, shards.sizes(unit), shards.number("bytes", unit))
        data = root.read(shards.file(unit), shards.number("bytes", unit))
        if hashlib.sha256(data).hexdigest() != shards.digest("sha256", unit):
            return None
        record = canonical(_record(manifest, unit, data))
    except (FileNotFoundError, CacheError):
        return None
    except Exception:  # whatever the library raises for bytes that are not its format
        return None
    return record if shards.record_fault(unit, record) is None else None


def _record(manifest: Manifest, unit: int, data: bytes) -> CommitRecord:
    """Raises any exception for bytes that are not this shard."""
    header, shards, whole = manifest.header, manifest.shards, memoryview(data)
    store = backend(header.backend)
    layout = store.layout(header.fields, data)
    frame = None if layout.frame is None else Part(layout.frame[0], _part(whole, layout.frame))
    most = shards.sizes(unit)
    blocks, batches = list[str](), list[Batch]()
    for at in layout.blocks:
        part = Part(at[0], _part(whole, at))
        sizes = store.sizes(header.fields, part, frame)
        if any(not 0 <= count <= most[level] for level, count in sizes.items()):
            raise ValueError(f"got a block of {sizes}, expected at most {most}")
        arrays, _ = store.decode(header.fields, part, frame, sizes)
        batches.append(Batch(header.fields, arrays, header.records, header.num_classes))
        blocks.append(str(Block(*at, _sha256(whole, at), sizes)))
    return CommitRecord(
        **shards.values(unit),
        blocks=tuple(blocks),
        frame=None if layout.frame is None else str(Place(*layout.frame, _sha256(whole, layout.frame))),
        score=unit_score(header, concat(batches).arrays),
    )


def _part(data: memoryview, at: tuple[int, int]) -> memoryview:
    return data[at[0] : at[0] + at[1]]


def _sha256(data: memoryview, at: tuple[int, int]) -> str:
    return hashlib.sha256(_part(data, at)).hexdigest()
