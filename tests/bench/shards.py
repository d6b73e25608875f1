"""How many bytes a position takes in a shard, array by array.

Nothing but the tokens is left out: positions, counts, checks and the file's own structure are counted.
"""

import io
import zipfile
from collections.abc import Mapping, Sequence

import numpy as np
import pyarrow.parquet as pq

from kdcache.store.backend import backend
from kdcache.targets.fields import Field

__all__ = ["Bytes", "shard_bytes"]

Bytes = dict[str, float]
"""Bytes per position by array; "structure" is what is not an array's."""

_LAYOUT = [Field("document_lengths", "document", "uint32"), Field("positions", "position", "uint32")]


def shard_bytes(fields: Sequence[Field], record: Mapping[str, np.ndarray], length: int) -> tuple[Bytes, Bytes, Bytes]:
    """(Zarr, Arrow, Parquet) for the records of consecutive windows of `length` positions, each one document.

    record: arrays of `fields`, and entry_counts where some are of entries.
    """
    positions = len(record["entry_counts"] if "entry_counts" in record else record[fields[0].name])
    windows = positions // length
    layout = {
        "document_counts": np.ones(windows, np.uint32),
        "document_lengths": np.full(windows, length + 1, np.uint32),
        "position_counts": np.full(windows, length, np.uint32),
        "positions": np.tile(np.arange(length, dtype=np.uint32), windows),
    }
    fields, arrays = [*_LAYOUT, *fields], layout | dict(record)
    return (
        {name: size / positions for name, size in _zarr(fields, arrays).items()},
        {name: size / positions for name, size in _arrow(fields, arrays).items()},
        {name: size / positions for name, size in _parquet(fields, arrays).items()},
    )


def _zarr(fields: Sequence[Field], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    data = backend("zarr").encode(fields, [arrays], {})
    sizes: dict[str, int] = {}
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        for member in archive.infolist():
            name, chunk, _ = member.filename.removeprefix("0/").partition("/c/")
            if chunk:
                sizes[name] = sizes.get(name, 0) + member.compress_size
    return sizes | {"structure": len(data) - sum(sizes.values())}


def _arrow(fields: Sequence[Field], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """An array's share is what the file loses without it: its lists' offsets are its own."""
    encode = backend("arrow").encode
    whole = len(encode(fields, [arrays], {}))
    sizes = {field.name: whole - len(encode([f for f in fields if f is not field], [arrays], {})) for field in fields}
    return sizes | {"structure": whole - sum(sizes.values())}


def _parquet(fields: Sequence[Field], arrays: Mapping[str, np.ndarray]) -> dict[str, int]:
    """A column has its lists' levels in it."""
    data = backend("parquet").encode(fields, [arrays], {})
    group = pq.read_metadata(io.BytesIO(data)).row_group(0)
    columns = [group.column(index) for index in range(group.num_columns)]
    sizes = {one.path_in_schema.partition(".")[0]: one.total_compressed_size for one in columns}
    return sizes | {"structure": len(data) - sum(sizes.values())}
