"""Blocks: some consecutive examples of a shard, what is read, decoded and checked at once.

Every block of a shard has the same number of examples but the last, and lies in one range of the shard's file. A commit
record says so in a line for each block, about 100 bytes of JSON for 1 to 2 MB:

    start bytes sha256 tokens documents positions entries

The counts say how much memory a block takes, before any is taken. Larger blocks compress no better and cost a reader
more memory; in smaller ones the structure of the file weighs more: a Zarr block of a language model has 6 kB of it. So
short texts have many examples in a block: those of a classification (22 tokens on average) take 78, 69, 57 and 56 bytes
in blocks of 512, 1,024, 4,096 and 8,192 in Zarr, and 1.2 µs of reading in 1,024, .4 in 8,192; in Arrow 80, 79, 79, 79.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass
from typing import Annotated, Literal

import numpy as np
from pydantic import Field as Limits

from kdcache.store.backend import array_fields, level_sizes
from kdcache.targets.fields import COUNTS, Field, Level, levels_of

__all__ = [
    "COUNTED",
    "Block",
    "BlockExamples",
    "BlockText",
    "Place",
    "PlaceText",
    "blocks_fault",
    "cut",
    "examples_of_a_block",
]

BLOCK_BYTES = 2 << 20
MOST_EXAMPLES = 4096
MOST_OF_A_SETTING = 1 << 20

COUNTED: dict[str, Level] = {
    "examples": "example",
    "tokens": "token",
    "documents": "document",
    "positions": "position",
    "entries": "entry",
}
"""What a commit record counts, and the level whose elements it counts."""

_NUMBER = "(0|[1-9][0-9]{0,14})"
BlockText = Annotated[str, Limits(pattern=f"^{_NUMBER} {_NUMBER} [0-9a-f]{{64}}( {_NUMBER}){{4}}$")]
PlaceText = Annotated[str, Limits(pattern=f"^{_NUMBER} {_NUMBER} [0-9a-f]{{64}}$")]
BlockExamples = Literal["auto"] | Annotated[int, Limits(ge=1, le=MOST_OF_A_SETTING)]
"""A setting: how many examples a block has, or "auto": as many as decode to about 2 MB, at most 4,096."""


@dataclass(frozen=True)
class Place:
    """A range of a file and its digest: "start bytes sha256" as text."""

    start: int
    bytes: int
    sha256: str

    @classmethod
    def parse(cls, text: str) -> "Place":
        start, bytes_, sha256 = text.split(" ")
        return cls(int(start), int(bytes_), sha256)

    def __str__(self) -> str:
        return f"{self.start} {self.bytes} {self.sha256}"

    @property
    def stop(self) -> int:
        return self.start + self.bytes


@dataclass(frozen=True)
class Block(Place):
    """The place of a block, and how many elements each level has in it."""

    sizes: Mapping[Level, int]

    @classmethod
    def of(cls, text: str, examples: int) -> "Block":
        """From its line in a commit record, and the number of its examples."""
        start, bytes_, sha256, *counts = text.split(" ")
        sizes = dict(zip(COUNTED.values(), (examples, *map(int, counts)), strict=True))
        return cls(int(start), int(bytes_), sha256, sizes)

    def __str__(self) -> str:
        _, *counts = (str(self.sizes.get(level, 0)) for level in COUNTED.values())
        return " ".join([super().__str__(), *counts])


def examples_of_a_block(setting: BlockExamples, fields: Sequence[Field], arrays: Mapping[str, np.ndarray]) -> int:
    """How many examples each block of these arrays has; of "auto" a function of their sizes alone.

    Args:
        setting: A number, or "auto".
        fields: What the arrays are.
        arrays: {field.name: flat array}, and the counts.

    Returns:
        A number from 1 to the examples that there are; 1 where there are none.
    """
    examples = level_sizes(fields, arrays).get("example", 0)
    if setting != "auto":
        return max(1, min(setting, examples))
    bytes_ = sum(arrays[field.name].nbytes for field in array_fields(fields))
    most = min(max(1, examples * BLOCK_BYTES // max(bytes_, 1)), MOST_EXAMPLES)
    blocks = max(1, -(-examples // most))
    return max(1, -(-examples // blocks))


def cut(fields: Sequence[Field], arrays: Mapping[str, np.ndarray], block_examples: int) -> list[dict[str, np.ndarray]]:
    """The arrays of each block, as views; a shard without examples is one empty block."""
    examples = level_sizes(fields, arrays)["example"]
    edges: dict[Level, np.ndarray] = {"example": np.append(np.arange(0, max(examples, 1), block_examples), examples)}
    bounds: dict[Level, np.ndarray] = {"example": np.arange(examples + 1)}
    for level in levels_of(fields):
        bounds[level] = np.concatenate([[0], np.cumsum(arrays[COUNTS[level]], dtype=np.int64)])
        edges[level] = bounds[level][edges["position" if level == "entry" else "example"]]
    return [
        {
            field.name: arrays[field.name][edges[field.level][i] : edges[field.level][i + 1]]
            for field in array_fields(fields)
        }
        for i in range(len(edges["example"]) - 1)
    ]


def blocks_fault(lines: Sequence[str], block_examples: int, counts: Mapping[str, int], file_bytes: int) -> str | None:
    """How the blocks of a commit record contradict the rest of it; None if they do not.

    Args:
        lines: One for each block.
        block_examples: Examples in each but the last.
        counts: What the shard holds, by the names of COUNTED.
        file_bytes: The size of its file.
    """
    examples = counts["examples"]
    expected = max(1, -(-examples // block_examples))
    if len(lines) != expected:
        return f"got {len(lines)} blocks, expected {expected} of {block_examples} examples"
    blocks = [Block.of(line, block_examples) for line in lines]
    ends = [0, *(block.stop for block in blocks)]
    if any(block.start < end for block, end in zip(blocks, ends, strict=False)) or ends[-1] > file_bytes:
        return f"got blocks that overlap or end at {max(ends)}, expected them in order inside {file_bytes} bytes"
    for name, level in COUNTED.items():
        if level != "example" and (got := sum(block.sizes[level] for block in blocks)) != counts[name]:
            return f"got blocks of {got} {name}, expected {counts[name]}"
    return None
