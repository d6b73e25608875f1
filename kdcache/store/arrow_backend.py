"""Arrow shards: an IPC file (Feather v2) with one row per example and a record batch for each block, zstd buffers.

A field of level example is a plain column (of level class, too: a basis is a file with a row for each);
of level token, document or position a list; of level entry a list of lists; a trailing shape is a fixed-size list.
Counts are the lists' offsets, so they have no column. float16 is written as float32, exactly, because DuckDB refuses a
whole file with a float16 column in it.

The stamp of a file is in the metadata of its schema, that of a block in the metadata of its record batch. What a record
batch says of itself, lengths and the sizes of its buffers, is compared with what it has to be (arrow_message.py) before
a buffer is decompressed. A block of one example costs 0.6 ms in all.

Offsets are 32 bits: a block holds fewer than 2³¹ entries.

Zstd level 2: of the records of a 135M language model (32 entries), 134 bytes per position in memory, 109 are left; one
core writes 340 MB of arrays per second and reads 550. Records with a varying number of entries cost more here than in
Zarr: each column of entries has its own offsets.
"""

import json
import math
from collections.abc import Iterator, Mapping, Sequence

import numpy as np
import pyarrow as pa

from kdcache.store.arrow_message import batch_places, messages_of, record_batch
from kdcache.store.backend import Layout, Part, Stamp
from kdcache.targets.fields import COUNTS, PARENT, Field, Level, levels_of, lists_of

__all__ = ["ARROW", "ArrowBackend", "from_arrow", "to_arrow"]

ZSTD_LEVEL = 2
MAGIC = b"ARROW1\0\0"
PADDING = 64
STAMP = b"kdcache"

Buffers = Iterator[tuple[memoryview, int, int]]
"""Of a record batch, in order: what is stored, how many bytes it says it decompresses to, and how many it should."""
_NOTHING = np.empty(0, np.uint8)


class ArrowBackend:
    suffix = ".arrow"
    libraries = ("pyarrow",)

    def encode(self, fields: Sequence[Field], blocks: Sequence[Mapping[str, np.ndarray]], stamp: Stamp) -> bytes:
        sink = pa.BufferOutputStream()
        options = pa.ipc.IpcWriteOptions(compression=pa.Codec("zstd", ZSTD_LEVEL))
        with pa.ipc.new_file(sink, _schema(fields, stamp), options=options) as writer:
            for number, arrays in enumerate(blocks):
                note = {STAMP: json.dumps({**stamp, "block": number}, sort_keys=True)}
                writer.write_batch(to_arrow(fields, arrays, stamp), custom_metadata=note)
        return sink.getvalue().to_pybytes()

    def layout(self, fields: Sequence[Field], data: bytes) -> Layout:
        whole = memoryview(data)
        if data[: len(MAGIC)] != MAGIC:
            raise ValueError("got another beginning than that of an Arrow file")
        schema, *blocks = messages_of(whole, len(MAGIC))
        if blocks != batch_places(whole) or not blocks:
            raise ValueError("got a footer of other record batches than those in the file")
        first, last = pa.ipc.read_schema(pa.py_buffer(whole[schema[0] :])), pa.ipc.open_file(data).schema
        _check_columns(fields, first)
        start, length = blocks[0]
        stamp = json.loads(record_batch(whole[start : start + length]).notes.get(STAMP, b"null"))
        if not first.equals(last, check_metadata=True) or {**_stamp(first), "block": 0} != stamp:
            raise ValueError("got another schema or stamp of the file than of its first record batch")
        return Layout(tuple(blocks))

    def sizes(self, fields: Sequence[Field], block: Part, frame: Part | None) -> dict[Level, int]:
        nodes, sizes = iter(record_batch(block.data).nodes), dict[Level, int]()
        for field in fields:
            sizes |= {level: next(nodes)[0] for level in _levels(field)}
            for _ in field.shape:
                next(nodes)
        return sizes

    def decode(
        self, fields: Sequence[Field], block: Part, frame: Part | None, sizes: Mapping[Level, int]
    ) -> tuple[dict[str, np.ndarray], Stamp]:
        batch = record_batch(block.data)
        stamp = json.loads(batch.notes.get(STAMP, b"null"))
        if not isinstance(stamp, dict):
            raise ValueError("got a record batch without a stamp, expected one that says what it is part of")
        nodes = [node for field in fields for node in _nodes(field, sizes)]
        expected = [size for field in fields for size in _buffers(field, sizes)]
        if batch.rows != nodes[0] or batch.nodes != [(length, 0) for length in nodes]:
            raise ValueError(f"got a record batch of {batch.rows} rows and other lists than its counts make")
        if len(batch.buffers) != len(expected):
            raise ValueError(f"got {len(batch.buffers)} buffers, expected {len(expected)}")
        buffers = iter(zip(batch.buffers, batch.decoded, expected, strict=True))
        arrays: dict[str, np.ndarray] = {}
        offsets: dict[Level, np.ndarray] = {}
        for field in fields:
            arrays[field.name] = _read_column(field, buffers, offsets, sizes)
        counts = {COUNTS[level]: np.diff(own).astype(np.uint32) for level, own in offsets.items()}
        return counts | arrays, stamp


ARROW = ArrowBackend()


def to_arrow(fields: Sequence[Field], arrays: Mapping[str, np.ndarray], stamp: Stamp) -> pa.RecordBatch:
    """The arrays of a shard as one row per example, nested as above.

    Args:
        fields: What the arrays are.
        arrays: {field.name: flat array}, and the counts.
        stamp: What the shard is part of, which goes into the metadata of the schema.

    Returns:
        A record batch with a column for each field, for any format that takes Arrow's data.
    """
    offsets = {level: _offsets(arrays[COUNTS[level]]) for level in levels_of(fields)}
    columns = [_column(field, arrays[field.name], offsets) for field in fields]
    return pa.RecordBatch.from_arrays(columns, schema=_schema(fields, stamp))


def _schema(fields: Sequence[Field], stamp: Stamp) -> pa.Schema:
    return pa.schema(
        (pa.field(field.name, _type(field), metadata=_metadata(field)) for field in fields),
        metadata={STAMP: json.dumps(dict(stamp), sort_keys=True)},
    )


def from_arrow(fields: Sequence[Field], batch: pa.RecordBatch) -> tuple[dict[str, np.ndarray], Stamp]:
    """The arrays of a shard, counts included, of the record batch that `to_arrow` made of them, and the stamp.

    Args:
        fields: What the arrays are.
        batch: A whole one, not a slice of another.

    Returns:
        {field.name: flat array}, and the counts, which may be read-only; and the stamp.

    Raises:
        ValueError: The batch holds something else.
    """
    _check_columns(fields, batch.schema)
    batch.validate(full=True)
    offsets: dict[Level, np.ndarray] = {}
    arrays: dict[str, np.ndarray] = {}
    for field in fields:
        column = batch.column(field.name)
        for level in lists_of(field.level):
            own, column = column.offsets.to_numpy(), _without_nulls(field, column).values
            if own[0] != 0 or own[-1] != len(column) or not np.array_equal(offsets.setdefault(level, own), own):
                raise ValueError(f"got {field.name} in other lists than the fields before it, expected the same ones")
        for _ in field.shape:
            column = _without_nulls(field, column).values
        values = _without_nulls(field, column).to_numpy()
        with np.errstate(over="ignore"):
            arrays[field.name] = values.astype(field.dtype, copy=False).reshape(-1, *field.shape)
    counts = {COUNTS[level]: np.diff(own).astype(np.uint32) for level, own in offsets.items()}
    return counts | arrays, _stamp(batch.schema)


def _stamp(schema: pa.Schema) -> Stamp:
    stamp = json.loads((schema.metadata or {}).get(STAMP, b"null"))
    if not isinstance(stamp, dict):
        raise ValueError("got no stamp in the schema, expected one that says what the file is part of")
    return stamp


def _without_nulls(field: Field, column: pa.Array) -> pa.Array:
    if column.null_count or column.offset:
        raise ValueError(f"got a column {field.name} with gaps, expected none")
    return column


def _check_columns(fields: Sequence[Field], schema: pa.Schema) -> None:
    """Raises ValueError for other columns than these, or other types."""
    expected = [field.name for field in fields]
    if schema.names != expected:
        raise ValueError(f"got columns {', '.join(schema.names)[:200]}, expected {', '.join(expected)}")
    for field, column in zip(fields, schema, strict=True):
        if not _same(column.type, _type(field)) or not _metadata_is_kept(field, column):
            raise ValueError(f"got {field.name} {str(column.type)[:80]}, expected {_type(field)}")


def _metadata_is_kept(field: Field, column: pa.Field) -> bool:
    found = column.metadata or {}
    return all(found.get(key.encode()) == value.encode() for key, value in (_metadata(field) or {}).items())


def _same(found: pa.DataType, expected: pa.DataType) -> bool:
    """Equal but for the names of what lists hold."""
    if not pa.types.is_nested(expected):
        return bool(found == expected)
    alike = found.id == expected.id and getattr(found, "list_size", None) == getattr(expected, "list_size", None)
    return alike and _same(found.value_type, expected.value_type)


def _type(field: Field) -> pa.DataType:
    """Of a field's column."""
    type_ = pa.from_numpy_dtype(_stored(field))
    for length in reversed(field.shape):
        type_ = pa.list_(type_, length)
    for _ in lists_of(field.level):
        type_ = pa.list_(type_)
    return type_


def _nodes(field: Field, sizes: Mapping[Level, int]) -> list[int]:
    """The lengths of a column and of each column inside it."""
    nodes = [sizes[level] for level in _levels(field)]
    for length in field.shape:
        nodes.append(nodes[-1] * length)
    return nodes


def _levels(field: Field) -> list[Level]:
    """Those of a column and of each list inside it."""
    return ["example", *lists_of(field.level)] if field.level in PARENT else [field.level]


def _buffers(field: Field, sizes: Mapping[Level, int]) -> list[int]:
    """How many bytes each buffer of a column holds: no marks of nulls, the offsets of its lists, the values."""
    buffers, parent = [], sizes.get("example", 0)
    for level in lists_of(field.level):
        buffers += [0, (parent + 1) * 4]
        parent = sizes[level]
    buffers += [0 for _ in field.shape]
    return [*buffers, 0, sizes[field.level] * math.prod(field.shape) * np.dtype(_stored(field)).itemsize]


def _read_column(
    field: Field, buffers: Buffers, offsets: dict[Level, np.ndarray], sizes: Mapping[Level, int]
) -> np.ndarray:
    """A field's values, from its buffers; its lists have to be those of the fields before it."""
    for level in lists_of(field.level):
        own = _read(field, buffers, "<i4")
        if not len(own):
            own = np.zeros(1, "<i4")
        if level not in offsets:
            if own[0] != 0 or own[-1] != sizes[level] or (own[1:] < own[:-1]).any():
                raise ValueError(f"got lists of {field.name} that do not fill it, expected each value in one")
            offsets[level] = own
        elif not np.array_equal(offsets[level], own):
            raise ValueError(f"got {field.name} in other lists than the fields before it, expected the same ones")
    for _ in field.shape:
        _read(field, buffers, None)
    values = _read(field, buffers, _stored(field))
    with np.errstate(over="ignore"):
        return values.astype(field.dtype, copy=False).reshape(-1, *field.shape)


def _read(field: Field, buffers: Buffers, dtype: str | None) -> np.ndarray:
    """The next buffer, decompressed, after the empty one of the marks of nulls; of a dtype None that one alone."""
    if len(next(buffers)[0]):
        raise ValueError(f"got a column {field.name} with gaps, expected none")
    if dtype is None:
        return _NOTHING
    stored, claimed, expected = next(buffers)
    if not len(stored) and claimed == 0 and expected <= 4:  # the offsets of no lists may be left out
        return _NOTHING.view(dtype)
    size = len(stored) if claimed == -1 else claimed
    if not expected <= size <= expected + PADDING:
        raise ValueError(f"got a buffer of {size} bytes of {field.name}, expected {expected}")
    plain = bytes(stored) if claimed == -1 else pa.Codec("zstd").decompress(stored, size, asbytes=False)
    return np.frombuffer(plain, dtype, expected // np.dtype(dtype).itemsize)


def _stored(field: Field) -> str:
    return "float32" if field.dtype == "float16" else field.dtype


def _column(field: Field, array: np.ndarray, offsets: Mapping[Level, pa.Array]) -> pa.Array:
    column = pa.array(np.ascontiguousarray(array, _stored(field)).reshape(-1))
    for length in reversed(field.shape):
        column = pa.FixedSizeListArray.from_arrays(column, length)
    for level in reversed(lists_of(field.level)):
        column = pa.ListArray.from_arrays(offsets[level], column)
    return column


def _metadata(field: Field) -> dict[str, str] | None:
    """What a reader without kdcache has to know of the values."""
    return None if field.steps_per_octave is None else {"steps_per_octave": json.dumps(field.steps_per_octave)}


def _offsets(counts: np.ndarray) -> pa.Array:
    return pa.array(np.concatenate([[0], np.cumsum(counts, dtype=np.int64)]), pa.int32())
