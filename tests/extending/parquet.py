"""A storage backend in one file: shards as Parquet, one row per example, for DuckDB, Spark or pandas.

A block is a row group. pyarrow decodes none without the footer, so that this is the frame of the file.
"""

import io
import struct

import pyarrow as pa
import pyarrow.parquet as pq

import kdcache

MAGIC = b"PAR1"


class Parquet:
    suffix = ".parquet"
    libraries = ("pyarrow",)

    def encode(self, fields, blocks, stamp):
        sink = pa.BufferOutputStream()
        batches = [kdcache.to_arrow(fields, arrays, stamp) for arrays in blocks]
        with pq.ParquetWriter(sink, batches[0].schema, compression="zstd") as writer:
            for batch in batches:
                writer.write_table(pa.Table.from_batches([batch]), row_group_size=max(1, len(batch)))
        return sink.getvalue().to_pybytes()

    def layout(self, fields, data):
        groups = pq.ParquetFile(pa.BufferReader(data)).metadata
        (length,) = struct.unpack("<I", data[-8:-4])
        footer = len(data) - 8 - length
        starts = [_start(groups.row_group(i)) for i in range(groups.num_row_groups)]
        blocks = zip(starts, [*starts[1:], footer], strict=True)
        return kdcache.Layout(tuple((a, b - a) for a, b in blocks), (footer, length + 8))

    def sizes(self, fields, block, frame):
        _, _, rows = _group(block, frame)
        arrays, _ = self.decode(fields, block, frame, {"example": rows})
        counts = {name.removesuffix("_counts"): array for name, array in arrays.items() if name.endswith("_counts")}
        return {"example": rows, **{level: int(array.sum()) for level, array in counts.items()}}

    def decode(self, fields, block, frame, sizes):
        metadata, number, rows = _group(block, frame)
        if rows != sizes["example"]:
            raise ValueError(f"got {rows} rows, expected {sizes['example']}")
        table = metadata.schema.to_arrow_schema().empty_table()
        if rows:
            source = pa.PythonFile(OneRange(block, frame.start + len(frame.data)), mode="r")
            table = pq.ParquetFile(source, metadata=metadata).read_row_group(number, use_threads=False)
        columns = [column.combine_chunks() for column in table.columns]
        arrays, stamp = kdcache.from_arrow(fields, pa.RecordBatch.from_arrays(columns, schema=table.schema))
        return arrays, {**stamp, "block": number}


class OneRange(io.RawIOBase):
    """A file of which one range is there; a reader that knows its footer asks for no other."""

    def __init__(self, part, size):
        self.part, self.size, self.at = part, size, 0

    def readable(self):
        return True

    def seekable(self):
        return True

    def seek(self, offset, whence=io.SEEK_SET):
        self.at = offset + {io.SEEK_SET: 0, io.SEEK_CUR: self.at, io.SEEK_END: self.size}[whence]
        return self.at

    def tell(self):
        return self.at

    def read(self, size=-1):
        first = self.at - self.part.start
        if first < 0 or first + size > len(self.part.data):
            raise ValueError(f"got a column at {self.at}, expected it inside its row group")
        self.at += size
        return bytes(self.part.data[first : first + size])


def _group(block, frame):
    metadata = pq.read_metadata(pa.BufferReader(MAGIC + bytes(frame.data)))
    groups = [metadata.row_group(i) for i in range(metadata.num_row_groups)]
    number = [_start(group) for group in groups].index(block.start)
    return metadata, number, groups[number].num_rows


def _start(group):
    columns = (group.column(i) for i in range(group.num_columns))
    return min(column.dictionary_page_offset or column.data_page_offset for column in columns)


kdcache.register_backend("parquet", Parquet())
