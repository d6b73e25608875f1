"""A zip of stored members, written and read without the clock and without surprises.

Members come one after the other from the first byte on, uncompressed, dated 1980-01-01; then the directory, which
follows from them. So the bytes are a function of the members, a run of members is one range of the file, and a reader
of a range needs no directory: each member begins with its name and its size. (zipfile takes 20 µs for a member, and
reads the directory first.)

From 65,535 members or 4 GiB on, the directory is that of zip64. A member holds less than 4 GiB.
"""

import struct
import zlib
from collections.abc import Iterator, Sequence
from dataclasses import dataclass

__all__ = ["Member", "ZipWriter", "directory_of", "members_of"]

LOCAL, CENTRAL = struct.Struct("<4s5H3L2H"), struct.Struct("<4s6H3L5H2L")
END, END64, LOCATOR = struct.Struct("<4s4H2LH"), struct.Struct("<4sQ2H2L4Q"), struct.Struct("<4sLQL")
OFFSET64 = struct.Struct("<2HQ")
VERSION, DATE, FULL16, FULL32 = 20, 33, 0xFFFF, 0xFFFFFFFF


@dataclass(frozen=True, slots=True)
class Member:
    """Where a member's own header starts, its checksum, and where its content lies."""

    name: bytes
    start: int
    crc: int
    content: slice


class ZipWriter:
    """A zip in memory: `add` members in order, then `finish`. `size`: bytes so far."""

    def __init__(self) -> None:
        self.size = 0
        self._parts: list[bytes | memoryview] = []
        self._members: list[Member] = []

    def add(self, name: str, content: bytes | memoryview, crc: int | None = None) -> None:
        """crc: the checksum of the content, where it is known."""
        encoded, crc = name.encode(), zlib.crc32(content) if crc is None else crc
        header = LOCAL.pack(b"PK\x03\x04", VERSION, 0, 0, 0, DATE, crc, len(content), len(content), len(encoded), 0)
        first = self.size + len(header) + len(encoded)
        self._members.append(Member(encoded, self.size, crc, slice(first, first + len(content))))
        self._parts += [header, encoded, content]
        self.size = first + len(content)

    def finish(self) -> bytes:
        return b"".join([*self._parts, directory_of(self._members, self.size)])


def members_of(data: memoryview, start: int = 0) -> Iterator[Member]:
    """The members that lie one after the other from the start of some bytes to their end, or to a directory.

    Args:
        data: A file or a part of it. Checksums are not compared.
        start: Where it begins in the file; `Member.content` is a place in `data`.

    Raises:
        ValueError: A member is not as `ZipWriter` writes it.
    """
    at = 0
    while at < len(data) and bytes(data[at : at + 4]) != b"PK\x01\x02":
        try:
            sign, version, flags, method, time, date, crc, size, whole, name, extra = LOCAL.unpack_from(data, at)
        except struct.error:
            raise ValueError(f"got an end in the middle of a member at {start + at}") from None
        first = at + LOCAL.size + name
        fixed = (sign, version, flags, method, time, date, extra)
        if fixed != (b"PK\x03\x04", VERSION, 0, 0, 0, DATE, 0) or size != whole or first + size > len(data):
            raise ValueError(f"got another member at {start + at} than one that is stored, expected it inside the file")
        yield Member(bytes(data[at + LOCAL.size : first]), start + at, crc, slice(first, first + size))
        at = first + size


def directory_of(members: Sequence[Member], at: int) -> bytes:
    """What follows the members of a file, from this place on."""
    parts = []
    for member in members:
        far = member.start >= FULL32
        extra = OFFSET64.pack(1, 8, member.start) if far else b""
        size = member.content.stop - member.content.start
        parts += [
            CENTRAL.pack(
                *(b"PK\x01\x02", VERSION, VERSION, 0, 0, 0, DATE, member.crc, size, size, len(member.name), len(extra)),
                *(0, 0, 0, 0, FULL32 if far else member.start),
            ),
            member.name,
            extra,
        ]
    size, count = sum(map(len, parts)), len(members)
    if count >= FULL16 or at + size >= FULL32:
        parts.append(END64.pack(b"PK\x06\x06", END64.size - 12, 45, 45, 0, 0, count, count, size, at))
        parts.append(LOCATOR.pack(b"PK\x06\x07", 0, at + size, 1))
        count, size, at = FULL16, FULL32, FULL32
    parts.append(END.pack(b"PK\x05\x06", 0, 0, count, count, size, at, 0))
    return b"".join(parts)
