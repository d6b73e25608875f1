"""Zarr v3 shards: a group in an uncompressed zip, in it a group for each block, Blosc zstd.

    zarr.json, 0/zarr.json, 0/tokens/zarr.json, 0/tokens/c/0, …, 1/zarr.json, …

Any Zarr v3 reader opens it. Here neither zarr-python nor a zip library is in the way: the metadata is known from the
fields and the counts, down to the byte, so that it is written and compared as text, and chunks go to Blosc as they
are. A block of one example costs 0.5 ms in all, where zarr-python takes 14.

Chunks: an array is cut along its first axis into the fewest equal chunks of at most 16 MiB; nearly every array of a
block is one. A bound is needed because Blosc takes at most 2 GiB at a time (a dense record of 150k classes gets there
with 7,000 positions). Blosc uses one thread, since its layout with several depends on chance; members are stored, dated
1980-01-01 (zip_file.py): the bytes are a function of the arrays and of the version of numcodecs.

Zstd level 5: of the records of a 135M language model (32 entries), 134 bytes per position in memory, 104 are left; one
core writes 115 MB of arrays per second and reads 400. Level 3 leaves 106 and writes 180; level 7 103 and 60.

Every chunk is written, also one of zeros alone, because a missing chunk would read as zeros without a word.
dimension_names say the level of each array, so that a reader without kdcache can tell which belong together, and an
attribute how logits in logarithmic steps are read. The stamp is an attribute of every group.
"""

import zlib
from collections.abc import Mapping, Sequence

import numcodecs.blosc
import numpy as np

from kdcache.store.backend import Layout, Part, Stamp, array_fields, check_stamp
from kdcache.store.zarr_members import (
    SHUFFLES,
    ZSTD_LEVEL,
    Chunks,
    group_json,
    metadata_of,
    read_array,
    read_stamp,
    rows_of,
)
from kdcache.store.zip_file import ZipWriter, directory_of, members_of
from kdcache.targets.fields import Field, Level

__all__ = ["ZARR", "ZarrBackend"]

CHUNK_BYTES = 16 << 20

numcodecs.blosc.use_threads = False


class ZarrBackend:
    suffix = ".zarr.zip"
    libraries = ("numcodecs",)

    def encode(self, fields: Sequence[Field], blocks: Sequence[Mapping[str, np.ndarray]], stamp: Stamp) -> bytes:
        packed = ZipWriter()
        packed.add("zarr.json", group_json(stamp))
        for number, arrays in enumerate(blocks):
            packed.add(f"{number}/zarr.json", group_json({**stamp, "block": number}))
            for field in array_fields(fields):
                _write(packed, number, field, arrays[field.name])
        return packed.finish()

    def layout(self, fields: Sequence[Field], data: bytes) -> Layout:
        whole = memoryview(data)
        members = [*members_of(whole)]
        starts: list[int] = []
        for member in members:
            if zlib.crc32(whole[member.content]) != member.crc:
                raise ValueError(f"got {member.name[:80]!r} with another checksum than its own")
            if member.name == b"%d/zarr.json" % len(starts):
                starts.append(member.start)
        if not members or members[0].name != b"zarr.json" or len(members) < 2 or starts[:1] != [members[1].start]:
            raise ValueError("got another order of members, expected zarr.json, and then the blocks")
        end = members[-1].content.stop
        if data[end:] != directory_of(members, end) or len({member.name for member in members}) < len(members):
            raise ValueError("got another directory, expected that of the members")
        stamp, block = (read_stamp(bytes(whole[member.content])) for member in members[:2])
        if {**stamp, "block": 0} != block:
            raise ValueError("got other stamps of the file and of its first block")
        return Layout(tuple((a, b - a) for a, b in zip(starts, [*starts[1:], end], strict=True)))

    def sizes(self, fields: Sequence[Field], block: Part, frame: Part | None) -> dict[Level, int]:
        members = {member.name: member.content for member in members_of(block.data, block.start)}
        prefix = next(iter(members))[: -len(b"zarr.json")]
        return {
            field.level: rows_of(bytes(block.data[members[b"%b%b/zarr.json" % (prefix, field.name.encode())]]))
            for field in array_fields(fields)
        }

    def decode(
        self, fields: Sequence[Field], block: Part, frame: Part | None, sizes: Mapping[Level, int]
    ) -> tuple[dict[str, np.ndarray], Stamp]:
        data = block.data
        members = {member.name: member.content for member in members_of(data, block.start)}
        first = next(iter(members), b"")
        stamp = read_stamp(bytes(data[members[first]]) if members else b"")
        if first != b"%b/zarr.json" % str(stamp.get("block")).encode():
            raise ValueError(f"got the first member {first[:80]!r}, expected the group of the block")
        prefix, arrays, expected = first[: -len(b"zarr.json")], {}, 1
        for field in array_fields(fields):
            chunks = Chunks(field, sizes[field.level], _chunk_rows(field, sizes[field.level]))
            arrays[field.name] = read_array(data, members, prefix, chunks)
            expected += 1 + chunks.number
        if len(members) != expected:
            raise ValueError(f"got {len(members)} members, expected {expected}")
        return arrays, stamp

    def restamp(self, fields: Sequence[Field], data: bytes, old: Stamp, new: Stamp) -> bytes:
        packed, whole, block = ZipWriter(), memoryview(data), 0
        for number, member in enumerate(members_of(whole)):
            content, stamps = whole[member.content], (old, new)
            if number and member.name == b"%d/zarr.json" % block:
                stamps = {**old, "block": block}, {**new, "block": block}
                block += 1
            elif number:
                packed.add(member.name.decode(), content, member.crc)
                continue
            if fault := check_stamp(read_stamp(bytes(content)), stamps[0]):
                raise ValueError(fault)
            packed.add(member.name.decode(), group_json(stamps[1]))
        return packed.finish()


ZARR = ZarrBackend()


def _write(packed: ZipWriter, number: int, field: Field, array: np.ndarray) -> None:
    chunks = Chunks(field, len(array), _chunk_rows(field, len(array)))
    packed.add(f"{number}/{field.name}/zarr.json", metadata_of(chunks))
    whole = np.ascontiguousarray(array, field.dtype)
    for index in range(chunks.number):
        rows = whole[index * chunks.rows : (index + 1) * chunks.rows]
        if len(rows) < chunks.rows:
            rows = np.concatenate([rows, np.zeros((chunks.rows - len(rows), *field.shape), field.dtype)])
        plain = rows.reshape(-1).view(np.uint8)
        encoded = numcodecs.blosc.compress(plain, b"zstd", ZSTD_LEVEL, SHUFFLES[field.shuffle][1], 0, rows.itemsize)
        packed.add(f"{number}/{field.name}/{chunks.key(index)}", encoded)


def _chunk_rows(field: Field, rows: int) -> int:
    """Rows per chunk, so that the fewest chunks of at most CHUNK_BYTES hold all of them, equally filled."""
    chunks = max(1, -(-rows // max(1, CHUNK_BYTES // _row_bytes(field))))
    return max(1, -(-rows // chunks))


def _row_bytes(field: Field) -> int:
    size = np.dtype(field.dtype).itemsize
    for length in field.shape:
        size *= length
    return size
