"""The members of a block of a Zarr shard: metadata that is known before it is read, and chunks.

The arrays of a block are known from its header and its commit record, down to their shapes, and so is the text of
every zarr.json but for the stamp: it is compared as bytes. A chunk's own header says how many bytes it decodes to, and
that has to be what the array's shape makes of it, before memory is taken. So neither a zip bomb nor a Blosc bomb goes
off, and no member is left that nobody expects.
"""

import json
import struct
from collections.abc import Mapping
from functools import lru_cache
from typing import Any, NamedTuple

import numcodecs.blosc
import numpy as np

from kdcache.store.backend import Stamp
from kdcache.targets.fields import Field

__all__ = [
    "SHUFFLES",
    "STAMP",
    "ZSTD_LEVEL",
    "Chunks",
    "group_json",
    "metadata_of",
    "read_array",
    "read_stamp",
    "rows_of",
]

STAMP = "kdcache"
BLOSC = struct.Struct("<4B3I")
"""Of a chunk: versions, flags, the size of an element, and of the decoded bytes, a block and the encoded bytes."""
BLOSC_VERSION = 2
ZSTD_LEVEL = 5
SHUFFLES = {"none": ("noshuffle", 0), "bytes": ("shuffle", 1), "bits": ("bitshuffle", 2)}
"""What the Zarr codec and what Blosc call it."""
ROWS, CHUNK_ROWS = "@rows@", "@chunk rows@"


class Chunks(NamedTuple):
    """An array of a field: how many rows it has, and how many each of its chunks."""

    field: Field
    length: int
    rows: int

    @property
    def number(self) -> int:
        return -(-self.length // self.rows)

    def key(self, index: int) -> str:
        """Of a chunk, below the array."""
        return f"c/{index}{'/0' * len(self.field.shape)}"


def metadata_of(chunks: Chunks) -> bytes:
    """The zarr.json of an array."""
    first, second, third = _template(chunks.field)
    return b"%b%d%b%d%b" % (first, chunks.rows, second, chunks.length, third)


def rows_of(metadata: bytes) -> int:
    """How many rows an array has by its zarr.json. Raises ValueError, TypeError or LookupError for other text."""
    rows = json.loads(metadata)["shape"][0]
    if type(rows) is not int or rows < 0:
        raise ValueError(f"got {rows!r} rows, expected a whole number")
    return rows


@lru_cache(maxsize=1024)
def _template(field: Field) -> tuple[bytes, bytes, bytes]:
    """The text of a zarr.json before, between and after the number of rows of a chunk and of the array."""
    blosc = {
        "blocksize": 0,
        "clevel": ZSTD_LEVEL,
        "cname": "zstd",
        "shuffle": SHUFFLES[field.shuffle][0],
        "typesize": np.dtype(field.dtype).itemsize,
    }
    values: dict[str, Any] = {
        "chunk_grid": {"configuration": {"chunk_shape": [CHUNK_ROWS, *field.shape]}, "name": "regular"},
        "chunk_key_encoding": {"name": "default"},
        "codecs": [
            {"configuration": {"endian": "little"}, "name": "bytes"},
            {"configuration": blosc, "name": "blosc"},
        ],
        "data_type": field.dtype,
        "dimension_names": [field.level, *(None for _ in field.shape)],
        "fill_value": 0.0 if np.dtype(field.dtype).kind == "f" else 0,
        "node_type": "array",
        "shape": [ROWS, *field.shape],
        "zarr_format": 3,
    }
    if field.steps_per_octave is not None:
        values["attributes"] = {"steps_per_octave": [*field.steps_per_octave]}
    text = _compact(values)
    before, _, rest = text.partition(b'"%b"' % CHUNK_ROWS.encode())
    between, _, after = rest.partition(b'"%b"' % ROWS.encode())
    return before, between, after


def group_json(stamp: Stamp) -> bytes:
    """The zarr.json of a group."""
    return _compact({"attributes": {STAMP: dict(stamp)}, "node_type": "group", "zarr_format": 3})


def read_stamp(text: bytes) -> Stamp:
    """What `group_json` was given. Raises ValueError for other bytes than it makes."""
    try:
        stamp = json.loads(text)["attributes"][STAMP]
        again = group_json(stamp)
    except (ValueError, LookupError, TypeError, RecursionError):
        again = b""
    if again != text or not all(type(value) in (str, int) for value in stamp.values()):
        raise ValueError("got a zarr.json without a stamp, expected one that says what the file is part of")
    return stamp


def _compact(values: Mapping[str, Any]) -> bytes:
    return json.dumps(values, sort_keys=True, separators=(",", ":")).encode()


def read_array(data: memoryview, members: Mapping[bytes, slice], prefix: bytes, chunks: Chunks) -> np.ndarray:
    """An array of a block.

    Args:
        data: The bytes of the block.
        members: Name -> place in them.
        prefix: The beginning of the names: the number of the block and a slash.
        chunks: What the array has to be.

    Raises:
        ValueError: It is something else.
    """
    field = chunks.field
    path = b"%b%b/" % (prefix, field.name.encode())
    found = members.get(path + b"zarr.json")
    if found is None or data[found] != metadata_of(chunks):
        got = "no metadata" if found is None else f"the metadata {bytes(data[found][:400])!r}"
        raise ValueError(f"got {got} of {field.name}, expected {metadata_of(chunks)!r}")
    array = np.empty((chunks.length, *field.shape), field.dtype)
    for index in range(chunks.number):
        name = path + chunks.key(index).encode()
        if name not in members:
            raise ValueError(f"got no member {name!r}, expected every chunk")
        rows = array[index * chunks.rows : (index + 1) * chunks.rows]
        whole = rows if len(rows) == chunks.rows else np.empty((chunks.rows, *field.shape), field.dtype)
        _decompress(name, data[members[name]], whole)
        if whole is not rows:
            rows[:] = whole[: len(rows)]
    return array


def _decompress(name: bytes, encoded: memoryview, into: np.ndarray) -> None:
    """A chunk, whose header has to say just these sizes; Blosc believes what it says of itself."""
    if len(encoded) < BLOSC.size:
        raise ValueError(f"got {name!r} of {len(encoded)} bytes, expected a chunk")
    version, *_, decoded, block, size = BLOSC.unpack_from(encoded)
    if version != BLOSC_VERSION or (decoded, size) != (into.nbytes, len(encoded)) or block > max(decoded, 1):
        raise ValueError(f"got {name!r} of {decoded} bytes in {size}, expected {into.nbytes} in {len(encoded)}")
    numcodecs.blosc.decompress(encoded, into.reshape(-1).view(np.uint8))
