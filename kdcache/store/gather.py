"""Examples of several batches, copied once into one batch: how the micro-batches of a step are made of decoded blocks.

A `Picked` names some examples of one batch in the order of their use, and works out where the elements of each of them
lie, for all of them at once; `gather` then copies one after the other: 0.3 µs for each array of an example, and the
speed of memory. Counts of an example's elements are not copied, they follow from where these lie.

B examples, L levels.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from functools import lru_cache

import numpy as np

from kdcache.store.backend import array_fields
from kdcache.store.batch import Batch
from kdcache.targets.fields import COUNTS, PARENT, Field, Level, levels_of

__all__ = ["Picked", "Run", "gather", "joined"]


class Picked:
    """Some examples of a batch in an order of their own; len() is their number.

    Args:
        batch: Where they are. It is kept.
        indices: Their numbers in it, int64 [B].

    Attributes:
        lengths: Tokens of each, int64 [B].
    """

    def __init__(self, batch: Batch, indices: np.ndarray) -> None:
        self.batch = batch
        levels, copied, _ = _layout(batch.fields)
        starts_BL = np.stack([batch.bounds[level][indices] for level in levels], axis=1)
        stops_BL = np.stack([batch.bounds[level][indices + 1] for level in levels], axis=1)
        self.lengths_BL = stops_BL - starts_BL
        slices = [
            [*map(slice, starts, stops)]
            for starts, stops in zip(starts_BL.T.tolist(), stops_BL.T.tolist(), strict=True)
        ]
        self.lengths = self.lengths_BL[:, levels.index("token")]
        self.columns = [(batch.arrays[name], slices[level]) for name, level in copied]

    def __len__(self) -> int:
        return len(self.lengths_BL)


def gather(examples: Sequence[tuple[Picked, int]]) -> Batch:
    """Copy some examples of batches of one cache.

    Args:
        examples: One or more: whose, and which of its own.

    Returns:
        A batch of them, in this order, with arrays of its own.
    """
    batch = examples[0][0].batch
    _, copied, counted = _layout(batch.fields)
    lengths_LB = np.stack([picked.lengths_BL[row] for picked, row in examples], axis=1).astype(np.uint32)
    arrays = {name: lengths_LB[level] for name, level in counted}
    for number, (name, _) in enumerate(copied):
        columns = [(*picked.columns[number], row) for picked, row in examples]
        arrays[name] = np.concatenate([array[slices[row]] for array, slices, row in columns])
    return Batch(batch.fields, arrays, batch.records, batch.num_classes, batch.load_basis)


@dataclass(frozen=True, slots=True)
class Run:
    """Some consecutive examples of a batch, from the first to before the stop."""

    batch: Batch
    first: int
    stop: int


def joined(runs: Sequence[Run]) -> Batch:
    """Copy the examples of one or more runs of batches of one cache, one after the other.

    Returns:
        A batch of them with arrays of its own.
    """
    batch = runs[0].batch
    levels, fields = batch.bounds, array_fields(batch.fields)
    places = {level: [_range(run, level) for run in runs] for level in levels}
    arrays = {
        field.name: np.concatenate(
            [run.batch.arrays[field.name][place] for run, place in zip(runs, places[field.level], strict=True)]
        )
        for field in fields
    }
    return Batch(batch.fields, arrays, batch.records, batch.num_classes, batch.load_basis)


def _range(run: Run, level: Level) -> slice:
    bounds = run.batch.bounds[level]
    return slice(int(bounds[run.first]), int(bounds[run.stop]))


_Columns = list[tuple[str, int]]


@lru_cache(64)
def _layout(fields: tuple[Field, ...]) -> tuple[list[Level], _Columns, _Columns]:
    """The levels; (name, its level's number) of the arrays that are copied, and of the counts that follow."""
    levels: list[Level] = ["example", *levels_of(fields)]
    counted = [(COUNTS[level], number) for number, level in enumerate(levels) if PARENT.get(level) == "example"]
    follow = {name for name, _ in counted}
    copied = [(f.name, levels.index(f.level)) for f in array_fields(fields) if f.name not in follow]
    return levels, copied, counted
