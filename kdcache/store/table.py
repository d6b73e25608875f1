"""shards.arrow: what cache.json pins of every shard, a row for each in the order of units, as one Arrow IPC file.

    examples, tokens, documents, positions, entries, bytes   int64
    block_examples, record_bytes                             int32: examples of a block; bytes of the commit record
    sha256, source_sha256, record_sha256                     32 bytes: of the shard, of its source (zeros where nobody
                                                             knows it), of the commit record
    besides                                                  bytes: JSON of the notes, the rows left out and
                                                             `made_under` and `taken` of the commit record, empty where
                                                             it has none of them

One record batch, no nulls, not compressed: 156 bytes a shard, read in place, so that opening takes no more memory than
the file has. The bytes are a function of the values. With this row, a lost commit record is made again from its shard
alone; the record itself is read when the shard is first used, and compared with `record_sha256`.
"""

from collections.abc import Iterator, Sequence
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcache.store.arrow_message import is_compressed

if TYPE_CHECKING:
    import pyarrow as pa

__all__ = [
    "BESIDES",
    "COUNTS",
    "DIGESTS",
    "DTYPES",
    "NO_SOURCE",
    "ROW",
    "TABLE",
    "Table",
    "Texts",
    "decode_table",
    "encode_table",
    "hexadecimal",
    "total",
]

TABLE = "shards.arrow"
COUNTS = ("examples", "tokens", "documents", "positions", "entries", "bytes")
"""What the totals of a cache sum."""
DIGESTS = ("sha256", "source_sha256", "record_sha256")
DTYPES: dict[str, np.dtype[Any]] = {
    **{name: np.dtype("<i8") for name in COUNTS},
    **{name: np.dtype("<i4") for name in ("block_examples", "record_bytes")},
    **{name: np.dtype("V32") for name in DIGESTS},
}
"""The columns whose values all have the same size."""
BESIDES = "besides"
ROW = sum(dtype.itemsize for dtype in DTYPES.values()) + 4
"""Bytes of a row whose `besides` is empty."""
NO_SOURCE = "0" * 64


@dataclass(frozen=True, eq=False)
class Texts:
    """Bytes of any length, one after the other.

    Attributes:
        offsets: Where each begins, and the last one ends, int32 [rows + 1].
        data: All of them, uint8.
    """

    offsets: np.ndarray
    data: np.ndarray

    @classmethod
    def of(cls, texts: Sequence[bytes]) -> "Texts":
        """Of some bytes each."""
        ends = np.cumsum([0, *map(len, texts)], dtype=np.int64)
        if ends[-1] >= 1 << 31:
            raise ValueError(f"got {ends[-1]} bytes of notes and rows left out, expected less than 2 GiB")
        return cls(ends.astype("<i4"), np.frombuffer(b"".join(texts), np.uint8))

    def __getitem__(self, row: int) -> bytes:
        return self.data[self.offsets[row] : self.offsets[row + 1]].tobytes()

    def __iter__(self) -> Iterator[tuple[int, bytes]]:
        """(row, bytes) of those that are not empty."""
        return ((row, self[row]) for row in np.flatnonzero(np.diff(self.offsets)).tolist())

    def __eq__(self, other: object) -> bool:
        if not isinstance(other, Texts):
            return NotImplemented
        return np.array_equal(self.offsets, other.offsets) and np.array_equal(self.data, other.data)

    __hash__ = None  # type: ignore[assignment]


@dataclass(frozen=True)
class Table:
    """The columns of some shards. columns: those of DTYPES by name, each [shards]. besides: that column."""

    columns: dict[str, np.ndarray]
    besides: Texts

    def __getitem__(self, name: str) -> np.ndarray:
        return self.columns[name]

    def __len__(self) -> int:
        return len(self.columns["bytes"])


def encode_table(table: Table) -> bytes:
    """The file of a table."""
    import pyarrow as pa

    rows, besides, schema = len(table), table.besides, _schema()
    buffers = {name: [None, pa.py_buffer(_plain(table, name))] for name in DTYPES}
    buffers[BESIDES] = [None, pa.py_buffer(besides.offsets), pa.py_buffer(np.ascontiguousarray(besides.data))]
    arrays = [pa.Array.from_buffers(field.type, rows, buffers[field.name]) for field in schema]
    sink = pa.BufferOutputStream()
    with pa.ipc.new_file(sink, schema, options=pa.ipc.IpcWriteOptions(compression=None)) as writer:
        writer.write_batch(pa.RecordBatch.from_arrays(arrays, schema=schema))
    return sink.getvalue().to_pybytes()


def decode_table(data: bytes, shards: int) -> Table:
    """A table of so many shards, whose columns are read-only views of its bytes.

    Raises:
        ValueError: It is no such table, or claims more memory than it has bytes.
    """
    import pyarrow as pa

    if len(data) < shards * ROW:
        raise ValueError(f"got {len(data)} bytes, expected at least {ROW} for each of {shards} shards")
    try:
        messages = pa.ipc.MessageReader.open_stream(pa.BufferReader(pa.py_buffer(data)[8:]))
        schema = pa.ipc.read_schema(messages.read_next_message())
        if not schema.equals(_schema(), check_metadata=True):
            raise ValueError(f"got columns {', '.join(schema.names)[:200]}, expected {', '.join(_schema().names)}")
        message = messages.read_next_message()
        if is_compressed(message.metadata.to_pybytes()):
            raise ValueError("got a table that is compressed, expected one that is not")
        batch = pa.ipc.read_record_batch(message, schema)
        batch.validate(full=True)
    except (pa.ArrowException, StopIteration, OSError, OverflowError, MemoryError) as error:
        raise ValueError(f"is no table of shards: {str(error)[:200]}") from None
    if batch.num_rows != shards:
        raise ValueError(f"got {batch.num_rows} rows, expected {shards}")
    columns = {name: _values(batch.column(name), dtype) for name, dtype in DTYPES.items()}
    _, offsets, texts = _buffers(batch.column(BESIDES))
    ends = np.frombuffer(offsets, "<i4", shards + 1) if shards else np.zeros(1, "<i4")
    if ends[0]:
        raise ValueError(f"got {BESIDES} that begin at {ends[0]}, expected 0")
    return Table(columns, Texts(ends, np.frombuffer(texts or b"", np.uint8)[: ends[-1]]))


def total(column: np.ndarray) -> int:
    """The sum of counts below 2⁴⁸, exact whatever their number."""
    return (int((column >> 24).sum()) << 24) + int((column & 0xFFFFFF).sum())


def hexadecimal(digests: np.ndarray) -> list[str]:
    """Digests of 32 bytes as text."""
    text = np.ascontiguousarray(digests).tobytes().hex()
    return [text[start : start + 64] for start in range(0, len(text), 64)]


def _buffers(column: "pa.Array") -> "list[pa.Buffer]":
    marks, *others = column.buffers()
    if column.null_count or column.offset or marks is not None:
        raise ValueError("got a column with gaps, expected none")
    return [None, *others]


def _values(column: "pa.Array", dtype: "np.dtype[Any]") -> np.ndarray:
    _, values = _buffers(column)
    if values.size < len(column) * dtype.itemsize:
        raise ValueError("got a column that ends too early")
    return np.frombuffer(values, dtype, len(column))


def _plain(table: Table, name: str) -> np.ndarray:
    return np.ascontiguousarray(table[name], DTYPES[name]).view(np.uint8)


def _schema() -> "pa.Schema":
    import pyarrow as pa

    types = {"<i8": pa.int64(), "<i4": pa.int32(), "|V32": pa.binary(32)}
    fields = [pa.field(name, types[dtype.str], nullable=False) for name, dtype in DTYPES.items()]
    return pa.schema([*fields, pa.field(BESIDES, pa.binary(), nullable=False)])
