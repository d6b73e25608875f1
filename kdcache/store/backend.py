"""Backend: the flat arrays of a shard <-> the bytes of one file.

Two of them, zarr_backend.py (the default: smallest) and arrow_backend.py (one row per example, for analysis with
pandas, polars or DuckDB). Both promise: the same arrays give the same bytes; what is read is what was written,
dtypes and empty arrays included; the file opens with its own library and no kdcache.
"""

from collections.abc import Mapping, Sequence
from importlib import import_module
from typing import Protocol, cast

import numpy as np

from kdcache.targets.fields import COUNTS, PARENT, Field, Level, levels_of

__all__ = ["Backend", "array_fields", "backend", "check_arrays", "level_sizes"]


class Backend(Protocol):
    """suffix: of a shard's file name."""

    suffix: str

    def encode(self, fields: Sequence[Field], arrays: Mapping[str, np.ndarray]) -> bytes:
        """One file of these arrays: {field.name: flat array} and the counts of `levels_of(fields)`."""

    def decode(self, fields: Sequence[Field], data: bytes) -> dict[str, np.ndarray]:
        """The arrays that `encode` was given. They may be read-only."""


def backend(name: str) -> Backend:
    """The backend of this name; its library is imported only now."""
    return cast(Backend, import_module(f"kdcache.store.{name}_backend"))


def array_fields(fields: Sequence[Field]) -> list[Field]:
    """Every array of a shard: the counts, as uint32 fields of their parent's level, then the fields."""
    return [*(Field(COUNTS[level], PARENT[level], "uint32") for level in levels_of(fields)), *fields]


def level_sizes(fields: Sequence[Field], arrays: Mapping[str, np.ndarray]) -> dict[Level, int]:
    """How many elements each level has. A file without counts has the rows of its first array."""
    first = array_fields(fields)[0]
    sizes: dict[Level, int] = {first.level: len(arrays[first.name])}
    for level in levels_of(fields):
        sizes[level] = int(arrays[COUNTS[level]].sum(dtype=np.int64))
    return sizes


def check_arrays(fields: Sequence[Field], arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError for the first array that does not have the dtype and shape of its field."""
    sizes = level_sizes(fields, arrays)
    for field in array_fields(fields):
        array, shape = arrays[field.name], (sizes[field.level], *field.shape)
        if array.dtype != field.dtype or array.shape != shape:
            raise ValueError(f"got {field.name} {array.dtype}{[*array.shape]}, expected {field.dtype}{[*shape]}")
