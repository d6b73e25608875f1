"""How many bytes the buffers of an Arrow record batch say they decompress to, before any is decompressed.

A compressed buffer begins with that number, and pyarrow takes it at its word. Where the buffers lie is in the metadata
of the message, a flatbuffer that pyarrow has verified; of that, this reads what Arrow's Message.fbs and Schema.fbs
define: Message.header, RecordBatch.buffers and RecordBatch.compression.
"""

import struct
from typing import Any

__all__ = ["buffer_sizes"]

HEADER = 2  # fields of a table are numbered, a union counts twice
BUFFERS, COMPRESSION = 2, 3


def buffer_sizes(message: Any) -> list[int]:
    """Of a record batch's buffers in order. message: pyarrow.ipc.Message. Raises ValueError for another message."""
    if message.type != "record batch":
        raise ValueError(f"got a message of type {message.type}, expected a record batch")
    data, body = message.metadata.to_pybytes(), message.body
    try:
        batch = _follow(data, _field(data, _follow(data, 0), HEADER))
        at = _field(data, batch, BUFFERS)
        vector = _follow(data, at)
        (count,) = struct.unpack_from("<I", data, vector)
        places = [struct.unpack_from("<qq", data, vector + 4 + 16 * i) for i in range(min(count, len(data) // 16))]
        compressed = _field(data, batch, COMPRESSION) != 0
    except struct.error:
        raise ValueError("got the metadata of no record batch") from None
    return [_decoded(body, offset, length) if compressed else length for offset, length in places]


def _decoded(body: Any, offset: int, length: int) -> int:
    """−1 says that the buffer is not compressed."""
    if length == 0:
        return 0
    if length < 8 or not 0 <= offset <= body.size - length:
        raise ValueError(f"got a buffer at {offset} of {length} bytes, expected it inside {body.size} bytes")
    (decoded,) = struct.unpack("<q", body.slice(offset, 8).to_pybytes())
    if decoded < -1:
        raise ValueError(f"got a buffer of {decoded} bytes")
    return length - 8 if decoded == -1 else int(decoded)


def _follow(data: bytes, at: int) -> int:
    """Where the offset at this place leads."""
    (offset,) = struct.unpack_from("<I", data, at)
    return at + offset


def _field(data: bytes, table: int, number: int) -> int:
    """Where a field of a table lies; 0 where the table does not have it."""
    (back,) = struct.unpack_from("<i", data, table)
    vtable = table - back
    if vtable < 0:
        raise ValueError("got the metadata of no record batch")
    (size,) = struct.unpack_from("<H", data, vtable)
    place = 4 + 2 * number
    if place >= size:
        return 0
    (offset,) = struct.unpack_from("<H", data, vtable + place)
    return table + offset if offset else 0
