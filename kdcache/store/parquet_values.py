"""The values of a Parquet page, and back.

Numbers of one byte are indices of a dictionary of all 256, which is a byte each. All others are BYTE_STREAM_SPLIT,
which puts bytes of equal significance together: Parquet makes four bytes of two, and the planes of the other two
compress to nothing. A block of the default record has 1,042 kB so, plain 1,288, by a dictionary of what occurs 1,111.
"""

import math
from functools import lru_cache

import numpy as np

from kdcache.store.parquet_levels import bit_packed
from kdcache.store.parquet_text import stored_dtype
from kdcache.targets.fields import Field

__all__ = ["BYTES", "all_bytes", "encoded", "is_byte", "room", "values_of"]

BYTES, INDEX_BITS = 256, 8


def is_byte(field: Field) -> bool:
    """Whether a number of this field is one byte."""
    return np.dtype(field.dtype).itemsize == 1


@lru_cache(4)
def all_bytes(dtype: str) -> bytes:
    """The numbers of one byte, in the order of the byte, of four bytes each."""
    return np.arange(BYTES, dtype=np.uint8).view(dtype).astype("<i4").tobytes()


def encoded(field: Field, array: np.ndarray) -> bytes:
    """The values of a page: indices of one byte, or their first bytes, their second bytes, and so on."""
    if is_byte(field):
        data = np.ascontiguousarray(array, field.dtype).tobytes()
        return bytes([INDEX_BITS]) + (bit_packed(len(data)) + data + bytes(-len(data) % 8) if data else b"")
    wide = np.ascontiguousarray(array, stored_dtype(np.dtype(field.dtype))).reshape(-1)
    return wide.view(np.uint8).reshape(-1, wide.itemsize).T.tobytes()


def room(field: Field, values: int) -> int:
    """How many bytes `encoded` makes of so many values."""
    if is_byte(field):
        return 1 + (len(bit_packed(values)) + -(-values // 8) * 8 if values else 0)
    return values * np.dtype(stored_dtype(np.dtype(field.dtype))).itemsize


def values_of(field: Field, raw: memoryview, elements: int) -> np.ndarray:
    """What `encoded` was given. Raises ValueError for bytes that it does not make."""
    dtype, count = np.dtype(field.dtype), elements * math.prod(field.shape)
    shape = (elements, *field.shape)
    if is_byte(field):
        start = 1 + len(bit_packed(count)) if count else 1
        if bytes(raw[:start]) != bytes([INDEX_BITS]) + (bit_packed(count) if count else b"") or any(
            raw[start + count :]
        ):
            raise ValueError(f"got other indices of {field.name} than a byte for each")
        return np.frombuffer(raw, dtype, count, start).reshape(shape)
    wide = np.dtype(stored_dtype(dtype))
    planes = np.frombuffer(raw, np.uint8).reshape(wide.itemsize, count)
    kept = 4 if dtype == np.float16 else dtype.itemsize
    whole = planes[kept - 1].astype(f"<u{kept}")
    for plane in planes[kept - 2 :: -1]:
        whole <<= 8
        whole |= plane
    if kept < wide.itemsize:
        signs = np.uint8(255) * (planes[kept - 1] >> 7) if dtype.kind == "i" else None
        if planes[kept:].any() if signs is None else (planes[kept:] != signs).any():
            raise ValueError(f"got numbers of {field.name} that do not fit {dtype}")
    if dtype == np.float16:
        with np.errstate(over="ignore"):
            return whole.view("<f4").astype(dtype).reshape(shape)
    return whole.view(dtype).reshape(shape)
