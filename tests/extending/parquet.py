"""A storage backend in one file: shards as Parquet, one row per example, for DuckDB, Spark or pandas."""

import pyarrow as pa
import pyarrow.parquet as pq

import kdcache


class Parquet:
    suffix = ".parquet"
    libraries = ("pyarrow",)

    def encode(self, fields, arrays, stamp):
        table = pa.Table.from_batches([kdcache.to_arrow(fields, arrays, stamp)])
        sink = pa.BufferOutputStream()
        pq.write_table(table, sink, compression="zstd", row_group_size=max(1, len(table)))
        return sink.getvalue().to_pybytes()

    def decode(self, fields, data, sizes):
        file = pq.ParquetFile(pa.BufferReader(data))
        if file.metadata.num_rows != sizes["example"]:
            raise ValueError(f"got {file.metadata.num_rows} rows, expected {sizes['example']}")
        table = file.read()
        columns = [column.combine_chunks() for column in table.columns]
        return kdcache.from_arrow(fields, pa.RecordBatch.from_arrays(columns, schema=table.schema))


kdcache.register_backend("parquet", Parquet())
