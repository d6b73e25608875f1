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
attribute how logits in logarithmic steps are read.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numcodecs.blosc
import numpy as np
import zarr
from zarr.codecs import BloscCodec
from zarr.core.buffer import default_buffer_prototype
from zarr.storage import MemoryStore

from kdcache.store.backend import array_fields
from kdcache.targets.fields import Field

__all__ = ["ZARR", "ZarrBackend"]

CHUNK_BYTES = 16 << 20
ZSTD_LEVEL = 5
EPOCH = (1980, 1, 1, 0, 0, 0)

numcodecs.blosc.use_threads = False


class ZarrBackend:
    suffix = ".zarr.zip"
    libraries = ("numcodecs", "zarr")

    def encode(self, fields: Sequence[Field], arrays: Mapping[str, np.ndarray]) -> bytes:
        members: dict[str, Any] = {}
        group = zarr.create_group(MemoryStore(members), zarr_format=3)
        for field in array_fields(fields):
            group.create_array(
                field.name,
                data=np.ascontiguousarray(arrays[field.name], field.dtype),
                chunks=(_chunk_rows(field, len(arrays[field.name])), *field.shape),
                compressors=BloscCodec(cname="zstd", clevel=ZSTD_LEVEL, shuffle="bitshuffle"),
                dimension_names=(field.level, *(None for _ in field.shape)),
                attributes={} if field.steps_per_octave is None else {"steps_per_octave": [*field.steps_per_octave]},
                config={"write_empty_chunks": True},
            )
        packed = io.BytesIO()
        with zipfile.ZipFile(packed, "w", zipfile.ZIP_STORED) as archive:
            for name in sorted(members):
                archive.writestr(zipfile.ZipInfo(name, EPOCH), members[name].to_bytes())
        return packed.getvalue()

    def decode(self, fields: Sequence[Field], data: bytes) -> dict[str, np.ndarray]:
        buffer = default_buffer_prototype().buffer
        with zipfile.ZipFile(io.BytesIO(data)) as archive:
            members = {name: buffer.from_bytes(archive.read(name)) for name in archive.namelist()}
        group = zarr.open_group(MemoryStore(members), mode="r", zarr_format=3)
        return {field.name: np.asarray(group[field.name]) for field in array_fields(fields)}


ZARR = ZarrBackend()


def _chunk_rows(field: Field, rows: int) -> int:
    """Rows per chunk, so that the fewest chunks of at most CHUNK_BYTES hold all of them, equally filled."""
    row_bytes = np.dtype(field.dtype).itemsize * int(np.prod(field.shape, dtype=np.int64))
    chunks = max(1, -(-rows // max(1, CHUNK_BYTES // row_bytes)))
    return max(1, -(-rows // chunks))
