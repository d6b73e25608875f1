"""The arrays of a shard and how they nest: the schema that both storage backends and the reader follow.

Ragged data is flat arrays plus counts. Every array belongs to a level; a level's counts, stored on its parent,
say how many of its elements each parent element owns:

    example                                 continues
            ├─ token      token_counts      tokens, token_types
            ├─ document   document_counts   document_lengths (tokens; sum to the example's tokens)
            └─ position   position_counts   positions, labels, what a record keeps of a position
                 └─ entry entry_counts      what a record keeps of an entry: ids, logits

The basis of a factored tail is a file of its own with a row for each class, of level class: it has no counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

__all__ = [
    "COUNTS",
    "NO_LABEL",
    "PARENT",
    "Field",
    "Level",
    "class_dtype",
    "empty_arrays",
    "levels_of",
    "lists_of",
]

NO_LABEL = -100
"""The label of a position whose label is not known."""

Level = Literal["example", "token", "document", "position", "entry", "class"]

PARENT: dict[Level, Level] = {
    "token": "example",
    "document": "example",
    "position": "example",
    "entry": "position",
}
COUNTS: dict[Level, str] = {
    "token": "token_counts",
    "document": "document_counts",
    "position": "position_counts",
    "entry": "entry_counts",
}


@dataclass(frozen=True)
class Field:
    """One array of a shard: shape (elements of `level`, *shape).

    steps_per_octave: of certain entries and of the others, where the values are logarithmic steps (logit_codec.py); the
    shard says so itself, for readers without kdcache.
    shuffle: what Zarr shards put together before they compress: bytes of equal significance, which suits measures;
    bits, which suits small codes; or none, which suits ids of tokens and classes, whose bytes belong together.
    """

    name: str
    level: Level
    dtype: str
    shape: tuple[int, ...] = ()
    steps_per_octave: tuple[int, int] | None = None
    shuffle: Literal["bytes", "bits", "none"] = "bytes"

    def __hash__(self) -> int:
        """Fields of a cache differ by name; what is known of a tuple of them is looked up for every batch."""
        return hash(self.name)


def levels_of(fields: Sequence[Field]) -> list[Level]:
    """The levels below example that these fields use, parents before children."""
    used = {field.level for field in fields}
    if "entry" in used:
        used.add("position")
    return [level for level in PARENT if level in used]


def lists_of(level: Level) -> list[Level]:
    """The levels from below example down to this one: the lists that a value of a row stands in, outermost first."""
    return [] if level not in PARENT else [*lists_of(PARENT[level]), level]


def class_dtype(num_classes: int) -> str:
    """Smallest unsigned dtype that holds every class id below num_classes."""
    return "uint16" if num_classes <= 1 << 16 else "uint32"


def empty_arrays(fields: Sequence[Field]) -> dict[str, np.ndarray]:
    """A shard of no examples: every array and every counts array with length 0."""
    arrays = {f.name: np.zeros((0, *f.shape), f.dtype) for f in fields}
    return arrays | {COUNTS[level]: np.zeros(0, np.uint32) for level in levels_of(fields)}
