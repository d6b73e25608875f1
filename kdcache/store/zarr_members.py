"""The members of a Zarr shard's zip, compared with what they have to be before anything is decoded.

The arrays of a shard are known from its header and its commit record, down to their shapes; and so are the members of
its file, up to the number of chunks. Each is stored, not compressed, so that all of them together are no larger than
the file; a chunk's own header says how many bytes it decodes to, and that has to be what the array's shape makes of it.
So neither a zip bomb nor a Blosc bomb takes memory, and no member is left that nobody expects.
"""

import io
import json
import math
import struct
import zipfile
from collections.abc import Mapping, Sequence
from typing import Any

import numpy as np

from kdcache.store.backend import Stamp
from kdcache.targets.fields import Field

__all__ = ["STAMP", "attributes_of", "checked_members", "dimension_names_of"]

STAMP = "kdcache"
END = struct.Struct("<4s4H2LH")
"""The end of a zip without a comment: its sixth number is the size of the directory."""
MOST_OF_A_MEMBERS_ENTRY = 512
MOST_METADATA = 1 << 16
BLOSC = struct.Struct("<4B3I")
"""Of a chunk: versions, flags, the size of an element, and of the decoded bytes, a block and the encoded bytes."""


def attributes_of(field: Field) -> dict[str, Any]:
    """What a reader without kdcache has to know of the values of an array."""
    return {} if field.steps_per_octave is None else {"steps_per_octave": [*field.steps_per_octave]}


def dimension_names_of(field: Field) -> tuple[str | None, ...]:
    """The level first."""
    return (field.level, *(None for _ in field.shape))


def checked_members(
    fields: Mapping[str, Field], shapes: Mapping[str, Sequence[int]], most_chunks: Mapping[str, int], data: bytes
) -> tuple[dict[str, bytes], Stamp]:
    """The members of a file by name, and its stamp.

    Args:
        fields: The arrays by name, counts among them.
        shapes: Of the arrays.
        most_chunks: How many chunks each may have.
        data: The file.

    Raises:
        ValueError: It is not a file of these arrays.
        zipfile.BadZipFile: It is no zip.
    """
    most = 1 + sum(1 + most_chunks[name] for name in fields)
    _check_directory(data, most)
    with zipfile.ZipFile(io.BytesIO(data)) as archive:
        sizes = {info.filename: _size(info) for info in archive.infolist()}
        if len(sizes) < len(archive.infolist()) or sum(sizes.values()) > len(data):
            raise ValueError("got members that overlap, expected each one once")
        for name in ("zarr.json", *(f"{name}/zarr.json" for name in fields)):
            if sizes.get(name, 0) > MOST_METADATA:
                raise ValueError(f"got {sizes[name]} bytes of {name}, expected at most {MOST_METADATA}")
        stamp = _stamp(archive)
        chunks: dict[str, int] = {}
        for name, field in fields.items():
            for key, size in _chunks(archive, field, shapes[name], most_chunks[name]).items():
                chunks[f"{name}/c/{key}"] = size
        expected = {"zarr.json", *(f"{name}/zarr.json" for name in fields), *chunks}
        if found := sorted(sizes.keys() ^ expected):
            kind = "a member" if found[0] in sizes else "no member"
            raise ValueError(f"got {kind} {found[0][:80]!r}, expected the arrays {', '.join(fields)} and no others")
        members = {name: archive.read(name) for name in sizes}
    for name, size in chunks.items():
        _check_chunk(name, members[name], size)
    return members, stamp


def _check_directory(data: bytes, members: int) -> None:
    """The directory is read whole, so its size is compared before. members: how many there may be."""
    magic, *_, size, _, comment = END.unpack(data[-END.size :]) if len(data) >= END.size else (b"", 0, 0, 0)
    long = data[-END.size - 20 : -END.size - 16] == b"PK\6\7" and len(data) < zipfile.ZIP64_LIMIT
    if magic != b"PK\5\6" or comment or long or size > members * MOST_OF_A_MEMBERS_ENTRY:
        raise ValueError(f"got another end of file than that of a zip of at most {members} members")


def _size(info: zipfile.ZipInfo) -> int:
    if info.compress_type != zipfile.ZIP_STORED or info.file_size != info.compress_size:
        raise ValueError(f"got a compressed member {info.filename[:80]!r}, expected stored ones")
    return info.file_size


def _stamp(archive: zipfile.ZipFile) -> Stamp:
    group = _json(archive, "zarr.json")
    attributes = group.get("attributes")
    if group.keys() != {"attributes", "zarr_format", "node_type"} or not isinstance(attributes, dict):
        raise ValueError("got another zarr.json than that of a group with attributes")
    stamp = attributes.get(STAMP)
    if (group["zarr_format"], group["node_type"], [*attributes]) != (3, "group", [STAMP]) or not isinstance(
        stamp, dict
    ):
        raise ValueError("got a zarr.json without a stamp, expected one that says what the file is part of")
    return stamp


def _chunks(archive: zipfile.ZipFile, field: Field, shape: Sequence[int], most: int) -> dict[str, int]:
    """The keys of an array's chunks, such as 0/0, and their decoded bytes. Raises ValueError for other metadata."""
    name = f"{field.name}/zarr.json"
    found = _json(archive, name)
    grid = found.pop("chunk_grid", None)
    rows = grid["configuration"]["chunk_shape"][0] if _has_rows(grid) else 0
    codecs = found.pop("codecs", None)
    found.pop("fill_value", None)
    found.setdefault("storage_transformers", [])
    expected = {
        "zarr_format": 3,
        "node_type": "array",
        "shape": [*shape],
        "data_type": field.dtype,
        "chunk_key_encoding": {"name": "default", "configuration": {"separator": "/"}},
        "attributes": attributes_of(field),
        "dimension_names": [*dimension_names_of(field)],
        "storage_transformers": [],
    }
    if found != expected:
        key = next(key for key in sorted({*found, *expected}) if found.get(key) != expected.get(key))
        got = str(found.get(key))
        raise ValueError(f"got {key} {got[:80]} of {field.name}, expected {expected.get(key)}")
    count = -(-shape[0] // rows) if rows > 0 else most + 1
    if count > most or grid != {"name": "regular", "configuration": {"chunk_shape": [rows, *field.shape]}}:
        raise ValueError(f"got another cut of {field.name}, expected at most {most} chunks along its first axis")
    if not _is_blosc(codecs):
        raise ValueError(f"got another codec of {field.name}, expected little-endian bytes and Blosc")
    bytes_ = rows * math.prod(field.shape) * np.dtype(field.dtype).itemsize
    rest = "".join("/0" for _ in field.shape)
    return {f"{number}{rest}": bytes_ for number in range(count)}


def _has_rows(grid: Any) -> bool:
    try:
        return type(grid["configuration"]["chunk_shape"][0]) is int
    except (TypeError, KeyError, IndexError):
        return False


def _is_blosc(codecs: Any) -> bool:
    names = [one.get("name") if isinstance(one, dict) else None for one in codecs] if isinstance(codecs, list) else []
    return names == ["bytes", "blosc"] and codecs[0].get("configuration", {}) in ({}, {"endian": "little"})


def _check_chunk(name: str, data: bytes, expected: int) -> None:
    *_, decoded, block, encoded = BLOSC.unpack_from(data) if len(data) >= BLOSC.size else (0, 0, 0)
    if (decoded, encoded) != (expected, len(data)) or block > max(decoded, 1):
        raise ValueError(f"got {name} of {decoded} bytes in {encoded}, expected {expected} in {len(data)}")


def _json(archive: zipfile.ZipFile, name: str) -> dict[str, Any]:
    try:
        values = json.loads(archive.read(name))
    except KeyError:
        raise ValueError(f"got no {name}, expected one for each array") from None
    if not isinstance(values, dict):
        raise ValueError(f"got a {name} that is no JSON object")
    return values
