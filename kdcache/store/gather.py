"""Examples of several batches, copied once into one batch: how the micro-batches of a step are made of decoded blocks.

`Chosen` names examples of some batches in the order of their use, and finds where the elements of all of them lie;
`copied` then copies each array in one call (copying.py). Counts of an example's elements are not copied, they follow
from where these lie.

B examples, L levels, C arrays, S batches.
"""

from collections.abc import Sequence
from functools import cached_property, lru_cache

import numpy as np

from kdcache.store.backend import array_fields
from kdcache.store.batch import Batch
from kdcache.store.copying import address, copy_ranges
from kdcache.targets.fields import COUNTS, PARENT, Field, Level, levels_of

__all__ = ["Chosen", "Origin"]


class Origin:
    """A batch that examples are copied out of, and where its arrays lie.

    Args:
        batch: It is kept.

    Attributes:
        bounds_L: The addresses of its bounds.
        arrays_C: Those of its arrays that are copied.

    Raises:
        ValueError: An array is not as long as the counts say.
    """

    def __init__(self, batch: Batch) -> None:
        levels, copied, _ = _layout(batch.fields)
        self.batch, self.examples = batch, len(batch)
        self._kept = [np.ascontiguousarray(batch.arrays[name]) for name, _ in copied]
        ends = [int(batch.bounds[level][-1]) for level in levels]
        for array, (name, level) in zip(self._kept, copied, strict=True):
            if len(array) != ends[level]:
                raise ValueError(f"got {len(array)} {name}, expected {ends[level]} as the counts say")
        self.bounds_L = [address(batch.bounds[level]) for level in levels]
        self.arrays_C = [address(array) for array in self._kept]


class Chosen:
    """Some examples of batches of one cache, in an order; len() is their number.

    Args:
        origins: Where they are, one or more.
        which_B: Whose each is.
        rows_B: Its number there.

    Raises:
        IndexError: There is no such example.
    """

    def __init__(self, origins: Sequence[Origin], which_B: np.ndarray, rows_B: np.ndarray) -> None:
        sizes = np.array([origin.examples for origin in origins])
        if len(rows_B) and (rows_B.min() < 0 or (rows_B >= sizes[which_B]).any()):
            raise IndexError("got the number of an example that its batch does not have")
        self._origins, self._which_B, self._rows_B = origins, which_B, rows_B

    def __len__(self) -> int:
        return len(self._rows_B)

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each, int64 [B]."""
        starts_LB, stops_LB = self._edges_2LB
        token = _layout(self._origins[0].batch.fields)[0].index("token")
        return stops_LB[token] - starts_LB[token]

    @cached_property
    def _edges_2LB(self) -> np.ndarray:
        """Where the elements of each example start and stop, at each level."""
        bounds_LS = np.array([origin.bounds_L for origin in self._origins], np.int64).T
        found_LB2 = np.empty((len(bounds_LS), len(self), 2), np.int64)
        places_LB = bounds_LS[:, self._which_B] + 8 * self._rows_B
        copy_ranges(found_LB2, places_LB.ravel(), np.full(places_LB.size, 16))
        return np.ascontiguousarray(np.moveaxis(found_LB2, 2, 0))

    def in_order(self, order_B: np.ndarray) -> "Chosen":
        """The same examples, or some of them, in another order."""
        chosen = Chosen(self._origins, self._which_B[order_B], self._rows_B[order_B])
        chosen.__dict__["_edges_2LB"] = self._edges_2LB[:, :, order_B]
        return chosen

    def copied(self) -> Batch:
        """A batch of them with arrays of its own."""
        batch = self._origins[0].batch
        _, copied, counted = _layout(batch.fields)
        starts_LB, stops_LB = self._edges_2LB
        lengths_LB = stops_LB - starts_LB
        totals_L = lengths_LB.sum(1).tolist()
        arrays_CS = np.array([origin.arrays_C for origin in self._origins], np.int64).T
        arrays = {name: lengths_LB[level].astype(np.uint32) for name, level in counted}
        for (name, level), array_S in zip(copied, arrays_CS, strict=True):
            like = batch.arrays[name]
            arrays[name] = into = np.empty((totals_L[level], *like.shape[1:]), like.dtype)
            row = like.itemsize * int(np.prod(like.shape[1:], dtype=np.int64))
            copy_ranges(into, array_S[self._which_B] + row * starts_LB[level], row * lengths_LB[level])
        return Batch(batch.fields, arrays, batch.records, batch.num_classes, batch.load_basis)


_Columns = list[tuple[str, int]]


@lru_cache(64)
def _layout(fields: tuple[Field, ...]) -> tuple[list[Level], _Columns, _Columns]:
    """The levels; (name, its level's number) of the arrays that are copied, and of the counts that follow."""
    levels: list[Level] = ["example", *levels_of(fields)]
    counted = [(COUNTS[level], number) for number, level in enumerate(levels) if PARENT.get(level) == "example"]
    follow = {name for name, _ in counted}
    copied = [(f.name, levels.index(f.level)) for f in array_fields(fields) if f.name not in follow]
    return levels, copied, counted
