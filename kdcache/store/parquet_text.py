"""What a Parquet file says of itself: the heads of its pages and its footer, as Thrift's compact protocol has them.

The numbers of the fields are those of parquet.thrift in apache/parquet-format. A footer is made of the blocks, so that
the one of a file is compared with the one that its blocks make: pyarrow 26 ends the process for some damaged footers,
and a footer that says something else than the blocks would show another reader other rows.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import NamedTuple

import numpy as np

from kdcache.store.parquet_levels import varint
from kdcache.targets.fields import Field

__all__ = [
    "DATA_PAGE",
    "DICTIONARY",
    "DICTIONARY_PAGE",
    "PLAIN",
    "SPLIT",
    "Chunk",
    "Group",
    "Page",
    "footer",
    "page_head",
    "read_page_head",
]

I16, I32, I64, BINARY, LIST, STRUCT = 4, 5, 6, 8, 9, 12  # of the compact protocol
DATA_PAGE, DICTIONARY_PAGE = 0, 2
PLAIN, RLE, DICTIONARY, SPLIT = 0, 3, 8, 9  # encodings; the last is BYTE_STREAM_SPLIT
ZSTD = 6
REQUIRED, REPEATED = 0, 2
LIST_OF_OLD = 3
PHYSICAL = {"i4": 1, "u4": 1, "i8": 2, "u8": 2, "f4": 4, "f8": 5}
CONVERTED = {"uint8": 11, "uint16": 12, "uint32": 13, "uint64": 14, "int8": 15, "int16": 16, "int32": 17, "int64": 18}
WRITER = b"kdcache version 1.0.0 (build 1)"
"""Of the layout, not of the package: the bytes depend on it."""

Value = tuple[int, bytes]
"""Type and text."""


class Page(NamedTuple):
    """The head of a page: kind, bytes when decoded, bytes as stored, values or slots, encoding; and its own length."""

    kind: int
    decoded: int
    stored: int
    slots: int
    encoding: int
    length: int


@dataclass(frozen=True)
class Chunk:
    """The pages of a column in a block: where they start in the file, and how long they are with their heads."""

    field: Field
    start: int
    data_start: int
    slots: int
    stored: int
    decoded: int


@dataclass(frozen=True)
class Group:
    """A block: its rows and its columns."""

    rows: int
    chunks: Sequence[Chunk]


def page_head(kind: int, decoded: int, stored: int, count: int, encoding: int) -> bytes:
    """The head of a page, without statistics and checksum."""
    about = {1: _i32(count), 2: _i32(encoding)}
    if kind == DATA_PAGE:
        about |= {3: _i32(RLE), 4: _i32(RLE)}
    of_kind = 5 if kind == DATA_PAGE else 7
    return _struct({1: _i32(kind), 2: _i32(decoded), 3: _i32(stored), of_kind: _struct(about)})[1]


def read_page_head(data: memoryview, at: int) -> Page:
    """The head of a page that `page_head` made. Raises ValueError for any other."""
    near = bytes(data[at : at + 64])
    try:
        place, numbers = 0, []
        for skipped in (1, 1, 1, 2, 1):  # what stands before each number
            number, place = _number(near, place + skipped)
            numbers.append(number)
    except IndexError:
        raise ValueError("got the end of a block, expected a page") from None
    kind, decoded, stored, count, encoding = numbers
    text = page_head(kind, decoded, stored, count, encoding) if min(numbers) >= 0 else b""
    if not text or near[: len(text)] != text or stored > len(data) - at - len(text):
        raise ValueError(f"got no page of this column at {at} of its block")
    return Page(kind, decoded, stored, count, encoding, len(text))


def footer(
    fields: Sequence[Field], groups: Sequence[Group], notes: Mapping[str, str], depths: Mapping[str, int]
) -> bytes:
    """The footer of a file.

    Args:
        fields: Its columns.
        groups: Its blocks.
        notes: Text by name, for readers.
        depths: Field -> the depth of its lists.
    """
    columns = [element for field in fields for element in _column(field, depths[field.name])]
    pairs = [_struct({1: _text(key), 2: _text(value)}) for key, value in notes.items()]
    return _struct(
        {
            1: _i32(2),
            2: _list([_struct({4: _text("schema"), 5: _i32(len(fields))}), *columns]),
            3: _i64(sum(group.rows for group in groups)),
            4: _list([_group(group, number, depths) for number, group in enumerate(groups)]),
            5: _list(pairs),
            6: (BINARY, varint(len(WRITER)) + WRITER),
        }
    )[1]


def _column(field: Field, depth: int) -> list[Value]:
    """The schema of a column: lists in lists, and what they hold."""
    elements, name = [], field.name
    for _ in range(depth):
        outer = {3: _i32(REQUIRED), 4: _text(name), 5: _i32(1), 6: _i32(LIST_OF_OLD), 10: _struct({3: _struct({})})}
        elements += [_struct(outer), _struct({3: _i32(REPEATED), 4: _text("list"), 5: _i32(1)})]
        name = "element"
    return [*elements, _leaf(name, np.dtype(field.dtype))]


def _leaf(name: str, dtype: np.dtype) -> Value:
    about = {1: _i32(PHYSICAL[stored_dtype(dtype)]), 3: _i32(REQUIRED), 4: _text(name)}
    if dtype.kind in "iu":
        width, signed = (3, bytes([8 * dtype.itemsize])), (1 if dtype.kind == "i" else 2, b"")
        about |= {6: _i32(CONVERTED[dtype.name]), 10: _struct({10: _struct({1: width, 2: signed})})}
    return _struct(about)


def stored_dtype(dtype: np.dtype) -> str:
    """What Parquet has of a dtype: whole numbers of 32 or 64 bits, and no float16 that every reader knows."""
    return f"{dtype.kind}{max(4, dtype.itemsize)}"


def _group(group: Group, number: int, depths: Mapping[str, int]) -> Value:
    chunks = group.chunks
    return _struct(
        {
            1: _list([_struct({2: _i64(0), 3: _chunk(chunk, depths[chunk.field.name])}) for chunk in chunks]),
            2: _i64(sum(chunk.decoded for chunk in chunks)),
            3: _i64(group.rows),
            5: _i64(chunks[0].start),
            6: _i64(sum(chunk.stored for chunk in chunks)),
            7: (I16, _zigzag(number)),
        }
    )


def _chunk(chunk: Chunk, depth: int) -> Value:
    has_dictionary = chunk.data_start != chunk.start
    encodings = (RLE, PLAIN, DICTIONARY) if has_dictionary else (RLE, SPLIT)
    about = {
        1: _i32(PHYSICAL[stored_dtype(np.dtype(chunk.field.dtype))]),
        2: _list([_i32(encoding) for encoding in encodings]),
        3: _list([_text(name) for name in (chunk.field.name, *(["list", "element"] * depth))]),
        4: _i32(ZSTD),
        5: _i64(chunk.slots),
        6: _i64(chunk.decoded),
        7: _i64(chunk.stored),
        9: _i64(chunk.data_start),
    }
    return _struct(about | ({11: _i64(chunk.start)} if has_dictionary else {}))


def _struct(fields: Mapping[int, Value]) -> Value:
    text, last = bytearray(), 0
    for number, (kind, body) in fields.items():
        text.append(number - last << 4 | kind)
        text += body
        last = number
    return STRUCT, bytes(text) + b"\0"


def _list(values: Sequence[Value]) -> Value:
    kind = values[0][0] if values else STRUCT
    head = bytes([len(values) << 4 | kind]) if len(values) < 15 else bytes([0xF0 | kind]) + varint(len(values))
    return LIST, head + b"".join(body for _, body in values)


def _i32(number: int) -> Value:
    return I32, _zigzag(number)


def _i64(number: int) -> Value:
    return I64, _zigzag(number)


def _text(text: str) -> Value:
    data = text.encode()
    return BINARY, varint(len(data)) + data


def _zigzag(number: int) -> bytes:
    return varint(number << 1)


def _number(data: bytes, at: int) -> tuple[int, int]:
    """A number of at most 32 bits that is not negative, or −1; and where it ends. Raises IndexError at the end."""
    number = shift = 0
    while data[at] > 127:
        number |= (data[at] & 127) << shift
        shift, at = shift + 7, at + 1
    number |= data[at] << shift
    return (-1 if number & 1 or number >> 32 else number >> 1), at + 1
