"""Parquet shards: one row per example and a row group for each block, zstd pages, for DuckDB, Spark, pandas, the Hub.

Columns are those of Arrow shards: lists, in lists for entries; a trailing shape is a list too, since Parquet knows none
of fixed length. Nothing is null, and float16 is stored as float32. Each column of a block is one page, whose levels are
one run (parquet_levels.py), and there are no statistics. pandas, DuckDB and Polars read every column; of Spark, the
encoding of whole numbers (parquet_values.py) takes version 4.

We write the format ourselves, because pyarrow's bytes change with its version, it gives a block no place for its stamp,
and it believes what a page says of its size. A block here begins with four bytes of length and a JSON text of its stamp
and sizes, which lies where no reader looks, before the first page. So a block is read with no footer; and a footer is
right only if it is the very one that the blocks make (parquet_text.py).

What a page says of itself is compared with what it has to be before it is decompressed. Memory: the arrays, and of one
column at a time four bytes for a value of two, and one for each slot. A page holds fewer than 2³¹ bytes.

Zstd level 2: of the default record 8.5 MB where Zarr has 7.9 and Arrow 9.8; one core writes 180 MB of arrays per second
(Zarr and Arrow 55) and reads 430 (780 and 670).
"""

import json
import math
import struct
from collections.abc import Mapping, Sequence
from itertools import pairwise

import numpy as np
import pyarrow as pa

from kdcache.store.backend import Layout, Part, Stamp, array_fields, level_sizes
from kdcache.store.parquet_levels import Levels, counts_of, levels_of_counts, room_of
from kdcache.store.parquet_text import (
    DATA_PAGE,
    DICTIONARY,
    DICTIONARY_PAGE,
    PLAIN,
    SPLIT,
    Chunk,
    Group,
    Page,
    footer,
    page_head,
    read_page_head,
)
from kdcache.store.parquet_values import BYTES, all_bytes, encoded, is_byte, room, values_of
from kdcache.targets.fields import COUNTS, PARENT, Field, Level, levels_of, lists_of

__all__ = ["PARQUET", "ParquetBackend"]

ZSTD_LEVEL = 2
MAGIC = b"PAR1"
LENGTH = struct.Struct("<I")
END = struct.Struct("<I4s")
LONGEST_PAGE = (1 << 31) - 1


class ParquetBackend:
    suffix = ".parquet"
    libraries = ("pyarrow",)

    def encode(self, fields: Sequence[Field], blocks: Sequence[Mapping[str, np.ndarray]], stamp: Stamp) -> bytes:
        parts = [MAGIC, *(_block(fields, arrays, {**stamp, "block": i}) for i, arrays in enumerate(blocks))]
        data = b"".join(parts)
        groups, _ = _walk(fields, memoryview(data), len(data))
        end = _footer(fields, groups, stamp)
        return b"".join([data, end, END.pack(len(end), MAGIC)])

    def layout(self, fields: Sequence[Field], data: bytes) -> Layout:
        whole = memoryview(data)
        length, magic = END.unpack_from(whole, max(len(whole) - END.size, 0))
        stop = len(whole) - END.size - length
        if whole[: len(MAGIC)] != MAGIC or magic != MAGIC or stop < len(MAGIC):
            raise ValueError("got another beginning or end than that of a Parquet file")
        groups, stamps = _walk(fields, whole, stop)
        stamp = {key: value for key, value in (stamps[0] if stamps else {}).items() if key != "block"}
        if [{**stamp, "block": i} for i in range(len(stamps))] != stamps or not stamps:
            raise ValueError("got blocks of other stamps than the first one's, expected one for each block in order")
        if data[stop : len(data) - END.size] != _footer(fields, groups, stamp):
            raise ValueError("got another footer than the blocks of the file make")
        starts = [len(MAGIC), *(_end(group) for group in groups)]
        return Layout(tuple((start, end - start) for start, end in pairwise(starts)))

    def sizes(self, fields: Sequence[Field], block: Part, frame: Part | None) -> dict[Level, int]:
        return _preface(fields, block.data)[1]

    def decode(
        self, fields: Sequence[Field], block: Part, frame: Part | None, sizes: Mapping[Level, int]
    ) -> tuple[dict[str, np.ndarray], Stamp]:
        stamp, claimed, at = _preface(fields, block.data)
        if different := {level: size for level, size in claimed.items() if sizes.get(level) != size}:
            raise ValueError(f"got a block of {different}, expected other counts")
        rows, counts, arrays = sizes[_first_level(fields)], dict[Level, np.ndarray](), dict[str, np.ndarray]()
        levels: dict[tuple[Level, tuple[int, ...]], Levels] = {}
        for field in fields:
            about, at = _heads(field, block.data, at)
            raw, of_levels = _decompressed(field, block.data, about, sizes, rows)
            for level, found in _new_counts(field, raw[:of_levels], about.page.slots, counts, sizes).items():
                counts[level] = found
            key = field.level, field.shape
            if key not in levels:
                levels[key] = levels_of_counts(_counts_of_depths(field, counts, sizes), rows)
            if levels[key].slots != about.page.slots or bytes(raw[:of_levels]) != levels[key].text:
                raise ValueError(f"got {field.name} in other lists than the fields before it, expected the same ones")
            arrays[field.name] = values_of(field, raw[of_levels:], sizes[field.level])
        if at != len(block.data):
            raise ValueError(f"got {len(block.data) - at} bytes after the last column of a block, expected none")
        return {COUNTS[level]: counts[level] for level in levels_of(fields)} | arrays, stamp


PARQUET = ParquetBackend()


class _Heads:
    """The pages of a column: where their bytes lie in the block; a dictionary where the values are indices of it."""

    def __init__(self, start: int, dictionary: Page | None, data_start: int, page: Page) -> None:
        self.start, self.dictionary, self.data_start, self.page = start, dictionary, data_start, page
        self.stop = data_start + page.length + page.stored


def _block(fields: Sequence[Field], arrays: Mapping[str, np.ndarray], stamp: Stamp) -> bytes:
    sizes = level_sizes(fields, arrays)
    counts = {level: arrays[COUNTS[level]] for level in levels_of(fields)}
    text = json.dumps({"sizes": sizes, "stamp": dict(stamp)}, sort_keys=True).encode()
    parts, levels = [LENGTH.pack(len(text)), text], dict[tuple[Level, tuple[int, ...]], Levels]()
    for field in fields:
        key = field.level, field.shape
        if key not in levels:
            levels[key] = levels_of_counts(_counts_of_depths(field, counts, sizes), sizes[_first_level(fields)])
        encoding = DICTIONARY if is_byte(field) else SPLIT
        if encoding == DICTIONARY:
            parts += _page(DICTIONARY_PAGE, all_bytes(field.dtype), BYTES, PLAIN)
        body = levels[key].text + encoded(field, arrays[field.name])
        parts += _page(DATA_PAGE, body, levels[key].slots, encoding)
    return b"".join(parts)


def _page(kind: int, body: bytes, count: int, encoding: int) -> list[bytes]:
    stored = pa.Codec("zstd", ZSTD_LEVEL).compress(body, asbytes=True)
    if max(len(body), len(stored)) > LONGEST_PAGE:
        raise ValueError(f"got a column of {len(body)} bytes in a block, expected at most 2 GiB: set block_examples")
    return [page_head(kind, len(body), len(stored), count, encoding), stored]


def _decompressed(
    field: Field, data: memoryview, about: _Heads, sizes: Mapping[Level, int], rows: int
) -> tuple[memoryview, int]:
    """The page of a column, and how many bytes of it are levels. Raises ValueError where it is of other sizes."""
    page, depths = about.page, len(lists_of(field.level)) + len(field.shape)
    values = sizes[field.level] * math.prod(field.shape)
    most = values + (rows + sum(sizes[level] for level in lists_of(field.level)) if depths else 0)
    if not values <= page.slots <= most:
        raise ValueError(f"got {page.slots} values and empty lists of {field.name}, expected {values} to {most}")
    of_levels = room_of(depths, page.slots, values)
    if page.decoded != of_levels + room(field, values):
        raise ValueError(f"got {page.decoded} bytes of {field.name}, expected {of_levels + room(field, values)}")
    if about.dictionary is not None:
        start = about.start + about.dictionary.length
        if bytes(_unpacked(data[start : about.data_start], about.dictionary.decoded)) != all_bytes(field.dtype):
            raise ValueError(f"got another dictionary of {field.name} than all bytes")
    start = about.data_start + page.length
    return _unpacked(data[start : about.stop], page.decoded), of_levels


def _unpacked(stored: memoryview, size: int) -> memoryview:
    return memoryview(pa.Codec("zstd").decompress(stored, size, asbytes=False)).cast("B")


def _new_counts(
    field: Field, text: memoryview, slots: int, known: Mapping[Level, np.ndarray], sizes: Mapping[Level, int]
) -> dict[Level, np.ndarray]:
    """The counts that a column's levels say and no column before it. Raises ValueError where they do not add up."""
    path, found = lists_of(field.level), dict[Level, np.ndarray]()
    values = sizes[field.level] * math.prod(field.shape)
    for depth, level in enumerate(path, 1):
        if level not in known:
            counts = counts_of(text, len(path) + len(field.shape), slots, values, depth)
            if len(counts) != sizes[PARENT[level]] or counts.sum(dtype=np.int64) != sizes[level]:
                raise ValueError(f"got {field.name} in lists of {level} that do not add up to {sizes[level]}")
            found[level] = counts
    return found


def _counts_of_depths(field: Field, counts: Mapping[Level, np.ndarray], sizes: Mapping[Level, int]) -> list[np.ndarray]:
    """How long the lists of a column are, from the outermost; those of its shape are all alike."""
    found, parents = [counts[level] for level in lists_of(field.level)], sizes[field.level]
    for length in field.shape:
        found.append(np.full(parents, length, np.uint32))
        parents *= length
    return found


def _preface(fields: Sequence[Field], data: memoryview) -> tuple[dict[str, str | int], dict[Level, int], int]:
    """Stamp and sizes of a block, and where its pages begin. Raises ValueError for what is no block."""
    (length,) = LENGTH.unpack_from(data)
    text = bytes(data[LENGTH.size : LENGTH.size + length])
    said = json.loads(text)
    stamp, sizes = said["stamp"], said["sizes"]
    expected = {_first_level(fields), *levels_of(fields)}
    if sizes.keys() != expected or not all(type(size) is int and size >= 0 for size in sizes.values()):
        raise ValueError(f"got a block that says its sizes are {str(sizes)[:200]}")
    if text != json.dumps({"sizes": sizes, "stamp": stamp}, sort_keys=True).encode() or not isinstance(stamp, dict):
        raise ValueError("got a block without a stamp, expected one that says what it is part of")
    return stamp, sizes, LENGTH.size + length


def _heads(field: Field, data: memoryview, at: int) -> tuple[_Heads, int]:
    """The pages of a column that begin here, and where they end. Raises ValueError for others."""
    start, dictionary = at, None
    if is_byte(field):
        dictionary = read_page_head(data, at)
        at += dictionary.length + dictionary.stored
        if (dictionary.kind, dictionary.decoded, dictionary.slots, dictionary.encoding) != (
            *(DICTIONARY_PAGE, BYTES * 4, BYTES, PLAIN),
        ):
            raise ValueError(f"got no dictionary of {field.name}")
    page = read_page_head(data, at)
    if (page.kind, page.encoding) != (DATA_PAGE, DICTIONARY if dictionary else SPLIT):
        raise ValueError(f"got a page of {field.name} of another kind or encoding")
    heads = _Heads(start, dictionary, at, page)
    return heads, heads.stop


def _walk(fields: Sequence[Field], data: memoryview, stop: int) -> tuple[list[Group], list[dict[str, str | int]]]:
    """The blocks of a file up to here, by what they say themselves, and their stamps."""
    groups, stamps, at, data = [], [], len(MAGIC), data[:stop]
    while at < stop:
        stamp, sizes, length = _preface(fields, data[at:])
        stamps.append(stamp)
        at += length
        chunks = []
        for field in fields:
            about, at = _heads(field, data, at)
            heads = (about.dictionary.length + about.dictionary.decoded if about.dictionary else 0) + about.page.length
            decoded = heads + about.page.decoded
            chunks.append(Chunk(field, about.start, about.data_start, about.page.slots, at - about.start, decoded))
        groups.append(Group(sizes[_first_level(fields)], chunks))
    return groups, stamps


def _end(group: Group) -> int:
    return group.chunks[-1].start + group.chunks[-1].stored


def _footer(fields: Sequence[Field], groups: Sequence[Group], stamp: Stamp) -> bytes:
    steps = {field.name: field.steps_per_octave for field in fields if field.steps_per_octave is not None}
    notes = {"kdcache": json.dumps(dict(stamp), sort_keys=True)}
    notes |= {"steps_per_octave": json.dumps(steps)} if steps else {}
    return footer(
        fields, groups, notes, {field.name: len(lists_of(field.level)) + len(field.shape) for field in fields}
    )


def _first_level(fields: Sequence[Field]) -> Level:
    """That of rows: of examples, or of classes."""
    return array_fields(fields)[0].level
