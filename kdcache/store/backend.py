"""Backend: the blocks of a shard, each flat arrays <-> the bytes of one file.

Three are built in: zarr_backend.py (the default: smallest, fastest to read), arrow_backend.py (one row per example, for
pandas or the memory of other tools) and parquet_backend.py (the same rows as lakes and the Hub keep them). To add one,
write a class with the attributes and methods of `Backend`, give an object of it to `register_backend`, and name it as
`backend` in the settings of a dump, or in `kdcache convert --to`. tests/extending/npz.py does so in one file.

Every backend promises: the same arrays give the same bytes; what is read is what was written, dtypes and empty arrays
included; the file opens with its own library and no kdcache. It keeps the stamp of a file in every block, with the
number of the block, so that no shard and no block can stand in for another; and it takes no more memory than the arrays
of the given sizes need, whatever a file says of itself.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from functools import lru_cache
from importlib.metadata import version
from typing import Annotated, Protocol, runtime_checkable

import numpy as np

from kdcache.config.chosen import Known
from kdcache.registry import Registry
from kdcache.targets.fields import COUNTS, PARENT, Field, Level, levels_of

__all__ = [
    "BACKENDS",
    "Backend",
    "BackendName",
    "Layout",
    "Part",
    "Restamps",
    "Stamp",
    "array_fields",
    "array_shapes",
    "backend",
    "backend_versions",
    "check_arrays",
    "check_stamp",
    "level_sizes",
    "register_backend",
]


Stamp = Mapping[str, str | int]
"""What a file is part of, kept inside it: of a shard its unit and the digests of its header and its commit record; of a
block its number too."""


@dataclass(frozen=True)
class Part:
    """Some bytes of a file, and where they start in it."""

    start: int
    data: memoryview


@dataclass(frozen=True)
class Layout:
    """Which bytes of a file are what, each as (start, bytes).

    Attributes:
        blocks: Of each block, in order. They do not overlap.
        frame: What `decode` needs of the file for any block, such as the footer of a Parquet file; None where a block
            says all there is to know. It is read once for all blocks of a shard that are read.
    """

    blocks: tuple[tuple[int, int], ...]
    frame: tuple[int, int] | None = None


class Backend(Protocol):
    """A storage format of shards: blocks, each in one range of the file, so that a reader takes what it needs.

    A block is some consecutive examples, with all their arrays: a group of a Zarr file, a record batch of an Arrow one,
    a row group of a Parquet one.

    Attributes:
        suffix: How the names of its files end, such as ".arrow".
        libraries: The installed distributions whose versions decide the bytes of a file; a cache's header keeps them.
    """

    @property
    def suffix(self) -> str: ...

    @property
    def libraries(self) -> Sequence[str]: ...

    def encode(self, fields: Sequence[Field], blocks: Sequence[Mapping[str, np.ndarray]], stamp: Stamp) -> bytes:
        """One file of the blocks of a shard.

        Args:
            fields: What the arrays are; `array_fields(fields)` adds the arrays of counts.
            blocks: Of each block {field.name: flat array}, for each of `array_fields(fields)`; one at least.
            stamp: Plain text and whole numbers by name, to be kept in the file.

        Returns:
            The bytes of the file, a function of the arguments and nothing else.
        """
        ...

    def layout(self, fields: Sequence[Field], data: bytes) -> Layout:
        """Where the blocks of a whole file lie, as any reader of the format would find them.

        Args:
            fields: As for `encode`.
            data: The bytes of a file, whoever wrote it.

        Returns:
            The place of each block, and of what else a block takes to be decoded.

        Raises:
            Exception: Any one, for bytes that are not such a file, or where what lies around the blocks is not what
                `encode` writes.
        """
        ...

    def sizes(self, fields: Sequence[Field], block: Part, frame: Part | None) -> Mapping[Level, int]:
        """How many elements each level of a block has, as it says of itself: for a commit record that is lost.

        Args:
            fields: As for `encode`.
            block: As for `decode`.
            frame: As for `decode`.

        Raises:
            Exception: Any one, for bytes that do not say so.
        """
        ...

    def decode(
        self, fields: Sequence[Field], block: Part, frame: Part | None, sizes: Mapping[Level, int]
    ) -> tuple[dict[str, np.ndarray], Stamp]:
        """What `encode` was given of one block.

        Args:
            fields: As for `encode`.
            block: The bytes of the block, whoever wrote them.
            frame: Those of the file's frame; None where `layout` gives none.
            sizes: How many elements each level has, as the commit record says. What a file says of its own sizes is to
                be compared with these before memory is taken for it.

        Returns:
            The arrays, which may be read-only, and the stamp of the block: that of the file, and under "block" its
            number in the file, from 0, as the bytes themselves say it.

        Raises:
            Exception: Any one, for bytes that are not such a block; the reader makes a DamagedShardError of it.
        """
        ...


@runtime_checkable
class Restamps(Protocol):
    """What a backend may have besides, where a stamp lies apart from what is compressed.

    `kdcache merge` then copies the blocks of a shard as they are. Without it they are decoded and encoded again.
    """

    def restamp(self, fields: Sequence[Field], data: bytes, old: Stamp, new: Stamp) -> bytes:
        """What `encode` gives of the same blocks with another stamp.

        Args:
            fields: As for `encode`.
            data: A file in which `layout` found no fault.
            old: The stamp that it is to have, in each of its blocks.
            new: The other stamp.

        Raises:
            ValueError: A block has another stamp than the old one.
        """
        ...


BACKENDS: Registry[Backend] = Registry(
    "backend",
    {
        "zarr": "kdcache.store.zarr_backend:ZARR",
        "arrow": "kdcache.store.arrow_backend:ARROW",
        "parquet": "kdcache.store.parquet_backend:PARQUET",
    },
)


def register_backend(name: str, backend: Backend) -> None:
    """Let caches be stored in a format of your own.

    Put the call in a module and name that module as `module` in the settings of a dump or a run, and in the --module
    option of the other commands.

    Args:
        name: What the settings and the header of a cache call it.
        backend: An object that encodes and decodes.

    Raises:
        ConfigError: Another backend has this name.
    """
    BACKENDS.register(name, backend)


def backend(name: str) -> Backend:
    """The backend of this name; its library is imported only now. Raises ConfigError for an unknown one."""
    return BACKENDS[name]


def backend_versions(name: str) -> dict[str, str]:
    """Installed versions of what a backend's bytes depend on. Raises ConfigError for an unknown one."""
    return {library: version(library) for library in backend(name).libraries}


BackendName = Annotated[str, Known(BACKENDS)]
"""The name of a registered backend, as a setting."""


def array_fields(fields: Sequence[Field]) -> list[Field]:
    """Every array of a shard.

    Args:
        fields: What the header of a cache names.

    Returns:
        The counts, as uint32 fields of their parent's level, then the fields themselves.
    """
    return [*_array_fields(tuple(fields))]


@lru_cache(64)
def _array_fields(fields: tuple[Field, ...]) -> tuple[Field, ...]:
    return (*(Field(COUNTS[level], PARENT[level], "uint32") for level in levels_of(fields)), *fields)


def array_shapes(fields: Sequence[Field], sizes: Mapping[Level, int]) -> dict[str, tuple[int, ...]]:
    """The shape of every array of a shard whose levels have so many elements."""
    return {field.name: (sizes[field.level], *field.shape) for field in array_fields(fields)}


def level_sizes(fields: Sequence[Field], arrays: Mapping[str, np.ndarray]) -> dict[Level, int]:
    """How many elements each level has. A file without counts has the rows of its first array."""
    first = array_fields(fields)[0]
    sizes: dict[Level, int] = {first.level: len(arrays[first.name])}
    for level in levels_of(fields):
        sizes[level] = int(arrays[COUNTS[level]].sum(dtype=np.int64))
    return sizes


def check_arrays(fields: Sequence[Field], arrays: Mapping[str, np.ndarray]) -> None:
    """Raises ValueError for the first array that does not have the dtype and shape of its field."""
    shapes = array_shapes(fields, level_sizes(fields, arrays))
    for field in array_fields(fields):
        array, shape = arrays[field.name], shapes[field.name]
        if array.dtype != field.dtype or array.shape != shape:
            raise ValueError(f"got {field.name} {array.dtype}{[*array.shape]}, expected {field.dtype}{[*shape]}")


def check_stamp(stamp: Stamp, expected: Stamp) -> str | None:
    """How a file is part of something else than it should be; None if it is not."""
    for key, value in expected.items():
        if stamp.get(key) != value or type(stamp[key]) is not type(value):
            got, wanted = (f"{one!s:.12}" for one in (stamp.get(key, "none"), value))
            return f"it is part of another whole: got {key} {got}, expected {wanted}"
    return None if stamp.keys() == expected.keys() else f"got a stamp of {', '.join(map(str, stamp))[:80]}"
