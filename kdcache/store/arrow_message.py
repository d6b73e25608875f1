"""An Arrow record batch, read as far as Arrow's Message.fbs, Schema.fbs and File.fbs say, before it is decompressed.

A message is a marker, the length of its metadata, the metadata (a flatbuffer), and a body in which each buffer begins
with the size that it decompresses to. pyarrow takes that number at its word, and knows nothing of ranges of a file; so
this reads the places of the buffers and what they claim, and the caller compares and decompresses them.
"""

import struct
from dataclasses import dataclass

__all__ = ["RecordBatch", "batch_places", "is_compressed", "messages_of", "record_batch"]

MARKER = struct.Struct("<Ii")
CONTINUES = 0xFFFFFFFF
HEADER_TYPE, HEADER, BODY_BYTES, NOTES = 1, 2, 3, 4  # fields of a Message; a union counts twice
RECORD_BATCH = 3
ROWS, NODES, BUFFERS, COMPRESSION = 0, 1, 2, 3  # of a RecordBatch
CODEC, ZSTD = 0, 1
BATCHES = 3  # of a Footer
END = struct.Struct("<i6s")
NO_BATCH = "got the metadata of no record batch"


@dataclass(frozen=True)
class RecordBatch:
    """What a message says of itself.

    Attributes:
        rows: How many.
        nodes: (length, nulls) of each column and each column inside it, in order.
        buffers: The bytes of each buffer as they are stored, after its size.
        decoded: The bytes that each decompresses to; −1 where it is stored as it is.
        notes: Its own metadata.
    """

    rows: int
    nodes: list[tuple[int, int]]
    buffers: list[memoryview]
    decoded: list[int]
    notes: dict[bytes, bytes]


def record_batch(data: memoryview) -> RecordBatch:
    """The record batch that some bytes are, all of them. Raises ValueError for other bytes."""
    try:
        marker, length = MARKER.unpack_from(data)
        metadata, body = bytes(data[MARKER.size : MARKER.size + length]), data[MARKER.size + length :]
        message = _follow(metadata, 0)
        kind, size = _number(metadata, message, HEADER_TYPE, "<B"), _number(metadata, message, BODY_BYTES)
        if (marker, kind, size) != (CONTINUES, RECORD_BATCH, len(body)) or length < 0:
            raise ValueError(NO_BATCH)
        batch = _follow(metadata, _field(metadata, message, HEADER))
        rows = _number(metadata, batch, ROWS)
        codec = _codec(metadata, batch)
        nodes = _pairs(metadata, batch, NODES)
        places = _pairs(metadata, batch, BUFFERS)
        notes = _notes(metadata, message)
    except struct.error:
        raise ValueError(NO_BATCH) from None
    if codec != ZSTD and len(body):
        raise ValueError("got buffers that are not compressed by zstd")
    stored = [_buffer(body, *place) for place in places]
    return RecordBatch(rows, nodes, [data for data, _ in stored], [size for _, size in stored], notes)


def is_compressed(metadata: bytes) -> bool:
    """Whether the metadata of a record batch says that its buffers are. Raises ValueError for that of none."""
    try:
        return _codec(metadata, _follow(metadata, _field(metadata, _follow(metadata, 0), HEADER))) != -1
    except struct.error:
        raise ValueError(NO_BATCH) from None


def messages_of(data: memoryview, start: int) -> list[tuple[int, int]]:
    """(start, bytes) of the messages that follow one another from here to the mark of their end.

    Raises:
        ValueError: There is no such mark, or something else than messages.
    """
    places: list[tuple[int, int]] = []
    at = start
    while True:
        try:
            marker, length = MARKER.unpack_from(data, at)
            if (marker, length) == (CONTINUES, 0):
                return places
            metadata = data[at + MARKER.size : at + MARKER.size + length]
            size = _number(metadata, _follow(metadata, 0), BODY_BYTES)
        except struct.error:
            raise ValueError("got no message where one was expected") from None
        if marker != CONTINUES or length < 0 or size < 0:
            raise ValueError("got no message where one was expected")
        places.append((at, MARKER.size + length + size))
        at += MARKER.size + length + size


def batch_places(data: memoryview) -> list[tuple[int, int]]:
    """(start, bytes) of the record batches that the footer of a file names. Raises ValueError for no such footer."""
    try:
        length, magic = END.unpack_from(data, len(data) - END.size)
        footer = data[len(data) - END.size - length : len(data) - END.size]
        if magic != b"ARROW1" or length <= 0:
            raise ValueError("got another end than that of an Arrow file")
        vector = _follow(footer, _field(footer, _follow(footer, 0), BATCHES))
        (count,) = struct.unpack_from("<I", footer, vector)
        blocks = [struct.unpack_from("<qi4xq", footer, vector + 4 + 24 * i) for i in range(min(count, length // 24))]
    except struct.error:
        raise ValueError("got another end than that of an Arrow file") from None
    return [(start, metadata + body) for start, metadata, body in blocks]


def _codec(metadata: bytes, batch: int) -> int:
    at = _field(metadata, batch, COMPRESSION)
    return _number(metadata, _follow(metadata, at), CODEC, "<B") if at else -1


def _number(data: bytes | memoryview, table: int, number: int, form: str = "<q") -> int:
    """A number in a table; 0 where it is left out."""
    at = _field(data, table, number)
    return int(struct.unpack_from(form, data, at)[0]) if at else 0


def _buffer(body: memoryview, offset: int, length: int) -> tuple[memoryview, int]:
    """A buffer without its size, and the size; −1 says that it is not compressed."""
    if length == 0:
        return body[:0], 0
    if length < 8 or not 0 <= offset <= len(body) - length:
        raise ValueError(f"got a buffer at {offset} of {length} bytes, expected it inside {len(body)} bytes")
    (decoded,) = struct.unpack_from("<q", body, offset)
    return body[offset + 8 : offset + length], decoded


def _pairs(data: bytes, table: int, number: int) -> list[tuple[int, int]]:
    """A vector of pairs of 64-bit numbers."""
    vector = _follow(data, _field(data, table, number))
    (count,) = struct.unpack_from("<I", data, vector)
    numbers = struct.unpack_from(f"<{2 * min(count, len(data) // 16)}q", data, vector + 4)
    return [*zip(numbers[::2], numbers[1::2], strict=True)]


def _notes(data: bytes, message: int) -> dict[bytes, bytes]:
    at = _field(data, message, NOTES)
    if not at:
        return {}
    vector = _follow(data, at)
    (count,) = struct.unpack_from("<I", data, vector)
    notes = {}
    for i in range(min(count, 16)):
        pair = _follow(data, vector + 4 + 4 * i)
        notes[_text(data, pair, 0)] = _text(data, pair, 1)
    return notes


def _text(data: bytes, table: int, number: int) -> bytes:
    at = _follow(data, _field(data, table, number))
    (length,) = struct.unpack_from("<I", data, at)
    return data[at + 4 : at + 4 + length]


def _follow(data: bytes | memoryview, at: int) -> int:
    """Where the offset at this place leads."""
    (offset,) = struct.unpack_from("<I", data, at)
    return at + int(offset)


def _field(data: bytes | memoryview, table: int, number: int) -> int:
    """Where a field of a table lies; 0 where the table does not have it."""
    (back,) = struct.unpack_from("<i", data, table)
    vtable = table - back
    if vtable < 0:
        raise ValueError(NO_BATCH)
    (size,) = struct.unpack_from("<H", data, vtable)
    place = 4 + 2 * number
    if place >= size:
        return 0
    (offset,) = struct.unpack_from("<H", data, vtable + place)
    return table + offset if offset else 0
