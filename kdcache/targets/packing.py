"""Packed: a structure of tensors as one run of bytes, which crosses a bus in one copy.

Whole numbers take the fewest of 1 to 4 bytes that hold those that are there, and come back as int32 or int64; the
columns of a narrow table of uint16 (the curve of sparse records) each their own. Numbers of three bytes go as a run of
uint16 and one of uint8, the third bytes. Tokens, masks, places and default records take 38 bytes per position and 4 per
entry so, 95 with 14 entries, where padded targets alone would take 632. Above 65,536 classes each entry, token and
label takes a byte more: 111.
"""

import math
from dataclasses import dataclass
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.targets.coded import workable
from kdcache.targets.moving import moved, tensors_in

__all__ = ["Packed"]

_ALIGNMENT = 16
_NARROW_TABLE = 16
_SENT_AS = (np.uint8, np.uint16, np.int32)
_THREE_BYTES = 1 << 24


@dataclass(frozen=True)
class _Piece:
    """A tensor, or a column of one. start: its first byte; dtype: on the way; third: a run of third bytes follows."""

    start: int
    dtype: torch.dtype
    shape: tuple[int, ...]
    third: bool

    def of(self, buffer: Tensor) -> Tensor:
        count = math.prod(self.shape)
        end = self.start + self.dtype.itemsize * count
        arrived = workable(buffer[self.start : end].view(self.dtype))
        if self.third:
            arrived = arrived | buffer[end : end + count].to(torch.int32) << 16
        return arrived.view(self.shape)


@dataclass(frozen=True)
class _Place:
    """pieces: of a tensor, or of each column of it; dtype: once arrived."""

    pieces: tuple[_Piece, ...]
    dtype: torch.dtype
    in_columns: bool

    def of(self, buffer: Tensor) -> Tensor:
        arrived = [piece.of(buffer).to(self.dtype) for piece in self.pieces]
        return torch.stack(arrived, 1) if self.in_columns else arrived[0]


@dataclass(frozen=True, eq=False)
class Packed:
    """What `of` was given, on its way.

    Attributes:
        value: The structure, on the host.
        buffer: The bytes of all its tensors, uint8; in pinned memory where they were asked to be.
    """

    value: Any
    buffer: Tensor
    places: tuple[_Place, ...]

    @classmethod
    def of(cls, value: Any, pin: bool = False) -> "Packed":
        """The tensors of dataclasses, mappings and sequences, which are on the CPU; a Basis goes its own way.

        Args:
            value: The structure.
            pin: Whether the bytes are to be in pinned memory, from where a copy runs beside other work.
        """
        places, runs, size = [], [], 0
        for tensor in tensors_in(value):
            array = tensor.numpy()
            in_columns = array.dtype == np.uint16 and array.ndim == 2 and 0 < array.shape[1] <= _NARROW_TABLE
            found = []
            for piece in array.T if in_columns else (array,):
                dtype, third = _narrowest(piece)
                found.append(_Piece(size, torch.from_numpy(np.empty(0, dtype)).dtype, piece.shape, third))
                runs.append((size, dtype, piece))
                used = piece.size * dtype.itemsize
                if third:
                    runs.append((size + used, np.dtype(np.uint8), piece >> 16))
                    used += piece.size
                size += -(-used // _ALIGNMENT) * _ALIGNMENT
            places.append(_Place(tuple(found), workable(tensor[:0]).dtype, in_columns))
        buffer = torch.empty(size, dtype=torch.uint8, pin_memory=pin)
        raw = buffer.numpy()
        for start, dtype, run in runs:
            there = raw[start : start + run.size * dtype.itemsize].view(dtype).reshape(run.shape)
            np.copyto(there, run, casting="unsafe")
        return cls(value, buffer, tuple(places))

    def to(self, device: torch.device | str, non_blocking: bool = False) -> Any:
        """The structure on a device; its numbers are the same, uint16 come as int32 and uint32 as int64.

        Args:
            device: Where to.
            non_blocking: Return before the copy is done, where the bytes are in pinned memory.
        """
        buffer = self.buffer.to(device, non_blocking=non_blocking)
        arriving = iter(self.places)
        return moved(self.value, lambda tensor: next(arriving).of(buffer), lambda basis: basis.to(device))


def _narrowest(array: np.ndarray) -> tuple[np.dtype, bool]:
    """The dtype on the way, and whether third bytes follow: then uint16 holds the other two."""
    if array.dtype.kind not in "iu" or not array.size:
        return array.dtype, False
    low, high = array.min(), array.max()
    if array.dtype.itemsize > 3 and low >= 0 and np.iinfo(np.uint16).max < high < _THREE_BYTES:
        return np.dtype(np.uint16), True
    fitting = (np.dtype(d) for d in _SENT_AS if np.iinfo(d).min <= low and high <= np.iinfo(d).max)
    narrow = next(fitting, array.dtype)
    return (narrow if narrow.itemsize < array.dtype.itemsize else array.dtype), False
