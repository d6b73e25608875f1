"""Zarr v3 shards: one group in an uncompressed zip, Blosc zstd with bitshuffle.

Zarr's own ZipStore stamps the clock and orders its members by chance, and Blosc with threads lays out its blocks by
chance. So the group is written to memory and its members are packed sorted, stored, dated 1980-01-01, and Blosc
uses one thread: the bytes are a function of the arrays (and of the library versions, which the manifest pins).

Chunks: an array is cut along its first axis into the fewest equal chunks of at most 16 MiB. Most arrays of a 64 MB
shard are then one chunk, which is what whole-shard reads want. A bound is needed because Blosc takes at most 2 GiB
at a time (a dense record of 150k classes gets there with 7,000 positions), and because chunks are what zarr
encodes and decodes in parallel; Blosc compresses blocks of under 1 MiB anyway, so the ratio is the same. Equal
chunks matter: zarr pads the last one to full size.

Zstd level 5: of the records of a 135M language model (32 entries), 134 bytes per position in memory, 104 are left; one
core writes 115 MB of arrays per second and reads 350. Level 3 leaves 106 and writes 180; level 7 103 and 60.

Every chunk is written, also one of zeros alone, because a missing chunk would read as zeros without a word.
dimension_names say the level of each array, so that a reader without kdcache can tell which belong together, and an
attribute how logits in logarithmic steps are read. The stamp of a file is an attribute of the group.

What a file says of itself is compared with what it has to be (zarr_members.py) before zarr decodes it.
"""

import io
import math
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numcodecs.blosc
import numpy as np
import zarr
from zarr.codecs import BloscCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from kdcache.store.backend import Stamp, array_fields, array_shapes
from kdcache.store.zarr_members import STAMP, attributes_of, checked_members, dimension_names_of
from kdcache.targets.fields import Field, Level

__all__ = ["ZARR", "ZarrBackend"]

CHUNK_BYTES = 16 << 20
ZSTD_LEVEL = 5
EPOCH = (1980, 1, 1, 0, 0, 0)

numcodecs.blosc.use_threads = False


class ZarrBackend:
    suffix = ".zarr.zip"
    libraries = ("numcodecs", "zarr")

    def encode(self, fields: Sequence[Field], arrays: Mapping[str, np.ndarray], stamp: Stamp) -> bytes:
        members: dict[str, Any] = {}
        group = zarr.create_group(MemoryStore(members), zarr_format=3, attributes={STAMP: dict(sorted(stamp.items()))})
        for field in array_fields(fields):
            group.create_array(
                field.name,
                data=np.ascontiguousarray(arrays[field.name], field.dtype),
                chunks=(_chunk_rows(field, len(arrays[field.name])), *field.shape),
                compressors=BloscCodec(cname="zstd", clevel=ZSTD_LEVEL, shuffle="bitshuffle"),
                dimension_names=dimension_names_of(field),
                attributes=attributes_of(field),
                config={"write_empty_chunks": True},
            )
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(members):
                archive.writestr(zipfile.ZipInfo(name, EPOCH), members[name].to_bytes())
        return packed.getvalue()

    def decode(
        self, fields: Sequence[Field], data: bytes, sizes: Mapping[Level, int]
    ) -> tuple[dict[str, np.ndarray], Stamp]:
        named, shapes = {field.name: field for field in array_fields(fields)}, array_shapes(fields, sizes)
        most = {name: _most_chunks(named[name], shape) for name, shape in shapes.items()}
        contents, stamp = checked_members(named, shapes, most, data)
        buffer = default_buffer_prototype().buffer
        members = {name: buffer.from_bytes(content) for name, content in contents.items()}
        group = zarr.open_group(MemoryStore(members), mode="r", zarr_format=3)
        return {name: np.asarray(group[name]) for name in named}, stamp


ZARR = ZarrBackend()


def _chunk_rows(field: Field, rows: int) -> int:
    """Rows per chunk, so that the fewest chunks of at most CHUNK_BYTES hold all of them, equally filled."""
    row_bytes = np.dtype(field.dtype).itemsize * int(np.prod(field.shape, dtype=np.int64))
    chunks = max(1, -(-rows // max(1, CHUNK_BYTES // row_bytes)))
    return max(1, -(-rows // chunks))


def _most_chunks(field: Field, shape: Sequence[int]) -> int:
    """How many chunks an array may have, whoever wrote it: of a quarter of CHUNK_BYTES each."""
    return 1 + 4 * math.prod(shape) * np.dtype(field.dtype).itemsize // CHUNK_BYTES
