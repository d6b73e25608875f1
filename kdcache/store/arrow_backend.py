"""Arrow shards: an IPC file (Feather v2) with one row per example, zstd buffers.

A field of level example is a plain column (of level class, too: a basis is a file with a row for each);
of level token, document or position a list; of level entry a list of lists; a trailing shape is a fixed-size list.
Counts are the lists' offsets, so they have no column. float16 is written as float32, exactly, because DuckDB refuses a
whole file with a float16 column in it.

One record batch, so that every column reads back as one flat array. Offsets are 32 bits: a shard holds fewer than
2³¹ entries.

Zstd level 2: of the records of a 135M language model (32 entries), 134 bytes per position in memory, 109 are left; one
core writes 340 MB of arrays per second and reads 550. Records with a varying number of entries cost more here than in
Zarr: each column of entries has its own offsets.
"""

import json
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow as pa

from kdcache.targets.fields import COUNTS, PARENT, Field, Level, levels_of

__all__ = ["ARROW", "ArrowBackend", "from_arrow", "to_arrow"]

ZSTD_LEVEL = 2


class ArrowBackend:
    suffix = ".arrow"
    libraries = ("pyarrow",)

    def encode(self, fields: Sequence[Field], arrays: Mapping[str, np.ndarray]) -> bytes:
        batch = to_arrow(fields, arrays)
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", ZSTD_LEVEL))
        with pa.ipc.new_file(sink, batch.schema, options=options) as writer:
            writer.write_batch(batch)
        return sink.getvalue().to_pybytes()

    def decode(self, fields: Sequence[Field], data: bytes) -> dict[str, np.ndarray]:
        return from_arrow(fields, pa.ipc.open_file(pa.BufferReader(data)).get_batch(0))


ARROW = ArrowBackend()


def to_arrow(fields: Sequence[Field], arrays: Mapping[str, np.ndarray]) -> pa.RecordBatch:
    """The arrays of a shard as one row per example, nested as above.

    Args:
        fields: What the arrays are.
        arrays: {field.name: flat array}, and the counts.

    Returns:
        A record batch with a column for each field, for any format that takes Arrow's data.
    """
    offsets = {level: _offsets(arrays[COUNTS[level]]) for level in levels_of(fields)}
    columns = [_column(field, arrays[field.name], offsets) for field in fields]
    schema = pa.schema(
        pa.field(field.name, column.type, metadata=_metadata(field))
        for field, column in zip(fields, columns, strict=True)
    )
    return pa.RecordBatch.from_arrays(columns, schema=schema)


def from_arrow(fields: Sequence[Field], batch: pa.RecordBatch) -> dict[str, np.ndarray]:
    """The arrays of a shard, counts included, of the record batch that `to_arrow` made of them.

    Args:
        fields: What the arrays are.
        batch: A whole one, not a slice of another.

    Returns:
        {field.name: flat array}, and the counts. They may be read-only.
    """
    counts: dict[str, np.ndarray] = {}
    arrays: dict[str, np.ndarray] = {}
    for field in fields:
        column = batch.column(field.name)
        for level in _path(field.level):
            if COUNTS[level] not in counts:
                counts[COUNTS[level]] = np.diff(column.offsets.to_numpy()).astype(np.uint32)
            column = column.values
        for _ in field.shape:
            column = column.values
        arrays[field.name] = column.to_numpy().astype(field.dtype, copy=False).reshape(-1, *field.shape)
    return counts | arrays


def _column(field: Field, array: np.ndarray, offsets: Mapping[Level, pa.Array]) -> pa.Array:
    dtype = "float32" if field.dtype == "float16" else field.dtype
    column = pa.array(np.ascontiguousarray(array, dtype).reshape(-1))
    for length in reversed(field.shape):
        column = pa.FixedSizeListArray.from_arrays(column, length)
    for level in reversed(_path(field.level)):
        column = pa.ListArray.from_arrays(offsets[level], column)
    return column


def _metadata(field: Field) -> dict[str, str] | None:
    """What a reader without kdcache has to know of the values."""
    return None if field.steps_per_octave is None else {"steps_per_octave": json.dumps(field.steps_per_octave)}


def _path(level: Level) -> list[Level]:
    """The levels from below example down to this one: the lists a value is nested in, outermost first."""
    return [] if level not in PARENT else [*_path(PARENT[level]), level]


def _offsets(counts: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]), pa.int32())
