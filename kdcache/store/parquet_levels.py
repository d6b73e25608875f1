"""Repetition and definition levels: how Parquet says which values share a list, for columns without nulls.

A column of lists has a slot for each value and for each empty list. A slot's repetition level is the depth of the list
that it goes on with, 0 where a row begins; its definition level is how many of its lists have something in them (the
Dremel encoding, Melnik et al. 2010). Both follow from the counts, and the counts from them.

In a page each is a hybrid of runs. We write one run: of a bit or two per slot, or of one value where all are equal. So
numpy packs and unpacks them without a loop, and the levels of some counts have one text, which is compared as bytes: a
page cannot say anything but its counts.

S slots, K depths.
"""

import struct
from collections.abc import Sequence
from typing import NamedTuple

import numpy as np

__all__ = ["Levels", "bit_packed", "counts_of", "levels_of_counts", "room_of", "run_of", "varint"]

_LENGTH = struct.Struct("<I")
_SPREAD = np.array([[byte >> shift & 3 for shift in (0, 2, 4, 6)] for byte in range(256)], np.uint8).view("<u4")[:, 0]
NO_LEVELS = "got other lists than a page of its counts has"


class Levels(NamedTuple):
    """Of the values of a column: as a page has them, and how many slots that are."""

    text: bytes
    slots: int


def varint(number: int) -> bytes:
    """An unsigned number, seven bits in a byte, the lowest first (LEB128)."""
    text = bytearray()
    while number > 127:
        text.append(number & 127 | 128)
        number >>= 7
    text.append(number)
    return bytes(text)


def bit_packed(count: int) -> bytes:
    """The head of a run of so many values, each by itself, filled up to a multiple of 8."""
    return varint(-(-count // 8) << 1 | 1)


def run_of(value: int, count: int) -> bytes:
    """A run of one value below 256."""
    return varint(count << 1) + bytes([value])


def levels_of_counts(counts_K: Sequence[np.ndarray], rows: int) -> Levels:
    """The levels of the values that stand in lists.

    Args:
        counts_K: Of each depth, from the outermost: how many elements each list has, for each element of the depth
            before.
        rows: How many rows there are.
    """
    depths = len(counts_K)
    if not depths:
        return Levels(b"", rows)
    repetition_S = np.zeros(rows, np.uint8)
    definition_S: np.ndarray | None = None  # all at their depth
    for depth, counts in enumerate(counts_K, 1):
        full, slots = counts.all(), counts
        if not full or definition_S is not None:
            slots = np.ones(len(repetition_S), counts.dtype)
            slots[... if definition_S is None else definition_S == depth - 1] = np.maximum(counts, 1)
            before_S = np.full(len(slots), depth - 1, np.uint8) if definition_S is None else definition_S
            filled_S = before_S == depth - 1
            filled_S[filled_S] = counts > 0
            definition_S = np.repeat(np.where(filled_S, np.uint8(depth), before_S), slots)
        ends = np.cumsum(slots, dtype=np.int64)
        first = repetition_S
        repetition_S = np.full(int(ends[-1]) if len(ends) else 0, depth, np.uint8)
        repetition_S[ends - slots] = first
    return Levels(_text(repetition_S, depths) + _text(definition_S, depths, len(repetition_S)), len(repetition_S))


def _text(levels_S: np.ndarray | None, depths: int, slots: int = 0) -> bytes:
    """Levels as a page has them; None is the deepest for each slot."""
    if levels_S is None:
        body = run_of(depths, slots) if slots else b""
    else:
        body = bit_packed(len(levels_S)) + _packed(levels_S, depths.bit_length()) if len(levels_S) else b""
    return _LENGTH.pack(len(body)) + body


def room_of(depths: int, slots: int, values: int) -> int:
    """How many bytes the levels of so many slots and values take."""
    if not depths:
        return 0
    packed = len(bit_packed(slots)) + -(-slots // 8) * depths.bit_length() if slots else 0
    same = len(run_of(depths, slots)) if slots else 0
    return 2 * _LENGTH.size + packed + (same if slots == values else packed)


def counts_of(text: memoryview, depths: int, slots: int, values: int, depth: int) -> np.ndarray:
    """The counts of one depth that these levels are made of; `levels_of_counts` of all is to be compared with the text.

    Args:
        text: As long as `room_of` says.
        depths: K.
        slots: S.
        values: How many slots hold one.
        depth: Which one, from 1.

    Returns:
        How many elements each list has, as uint32.
    """
    if not slots:
        return np.zeros(0, np.uint32)
    width, at = depths.bit_length(), _LENGTH.size + len(bit_packed(slots))
    size = -(-slots // 8) * width
    repetition_S = _unpacked(text[at : at + size], width, slots)
    if slots == values:
        parents_S, elements_S = repetition_S < depth, None if depth == depths else repetition_S <= depth
    else:
        definition_S = _unpacked(text[len(text) - size :], width, slots)
        parents_S = (repetition_S < depth) & (definition_S >= depth - 1)
        elements_S = (repetition_S <= depth) & (definition_S >= depth)
    parents = np.flatnonzero(parents_S)
    if elements_S is None:  # each slot is one
        return np.diff(parents, append=slots).astype(np.uint32)
    elements = np.flatnonzero(elements_S)
    return np.diff(np.searchsorted(elements, parents), append=len(elements)).astype(np.uint32)


def _packed(levels_S: np.ndarray, width: int) -> bytes:
    whole = np.zeros(-(-len(levels_S) // 8) * 8, np.uint8)
    whole[: len(levels_S)] = levels_S
    if width == 1:
        return np.packbits(whole, bitorder="little").tobytes()
    if width == 2:
        four = whole.view("<u4")
        return (four | four >> 6 | four >> 12 | four >> 18).astype(np.uint8).tobytes()
    bits = np.unpackbits(whole[:, None], axis=1, count=width, bitorder="little")
    return np.packbits(bits, bitorder="little").tobytes()


def _unpacked(text: memoryview, width: int, slots: int) -> np.ndarray:
    packed = np.frombuffer(text, np.uint8)
    if width == 1:
        return np.unpackbits(packed, count=slots, bitorder="little")
    if width == 2:
        return _SPREAD[packed].view(np.uint8)[:slots]
    bits = np.unpackbits(packed, bitorder="little").reshape(-1, width)
    return np.packbits(bits, axis=1, bitorder="little")[:slots, 0]
