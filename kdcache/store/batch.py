"""Batch: some examples with their records, as flat arrays and counts.

All operations are numpy over whole arrays, since this is the path from shard to step: a slice is a view, a
concatenation one copy, a take one copy of each example's ranges or, where examples are short, one gather whose index
is built with repeat and cumsum. 64 examples of 1024 positions with 32 entries (9 MB) are taken in 2 ms.

B examples, P positions of all of them, L tokens of one.
"""

from collections.abc import Callable, Sequence
from dataclasses import dataclass
from functools import cached_property
from typing import TYPE_CHECKING

import numpy as np

from kdcache.errors import CacheError
from kdcache.store.backend import array_fields
from kdcache.targets.fields import COUNTS, Field, Level, levels_of
from kdcache.targets.kind import RecordKind
from kdcache.targets.records import distribution_of

if TYPE_CHECKING:
    from kdcache.targets.basis import Basis
    from kdcache.targets.coded import Coded
    from kdcache.targets.record import TeacherTargets

__all__ = ["Batch", "concat"]

LONG_RANGE = 64


@dataclass(frozen=True, eq=False)
class Batch:
    """Some examples of a cache with the teacher's records; len() is their number.

    Attributes:
        fields: What the arrays are.
        arrays: {field.name: flat array}, and the arrays of counts of `levels_of(fields)`. They may be read-only, and
            shared with other batches.
        records: What is kept of the teacher.
        num_classes: Columns of the teacher's logits.
        load_basis: Gives the basis of calibrated records, the same one for every batch of a cache; None where there is
            none.
    """

    fields: tuple[Field, ...]
    arrays: dict[str, np.ndarray]
    records: tuple[RecordKind, ...]
    num_classes: int
    load_basis: "Callable[[], Basis] | None" = None

    def __len__(self) -> int:
        return len(self.arrays[array_fields(self.fields)[0].name])

    @property
    def num_tokens(self) -> int:
        return int(self.bounds["token"][-1])

    @property
    def num_positions(self) -> int:
        return int(self.bounds["position"][-1])

    @property
    def nbytes(self) -> int:
        """Memory the arrays take; views count as what they show."""
        return sum(array.nbytes for array in self.arrays.values())

    @property
    def lengths(self) -> np.ndarray:
        """Tokens of each example, int64 [B]."""
        return np.diff(self.bounds["token"])

    def tokens(self, i: int) -> np.ndarray:
        """The token ids of example i, int64 [L]."""
        return self._of("tokens", "token", i)

    def types(self, i: int) -> np.ndarray | None:
        """Token types of example i, int64 [L]; None where the tokenizer gives none."""
        return self._of("token_types", "token", i) if "token_types" in self.arrays else None

    def positions(self, i: int) -> np.ndarray:
        """Supervised places of example i, ascending indices into its tokens, int64."""
        return self._of("positions", "position", i)

    def documents(self, i: int) -> np.ndarray:
        """Token counts of the documents in example i, in order, int64; they sum to L."""
        return self._of("document_lengths", "document", i)

    @property
    def continues(self) -> np.ndarray:
        """Whether each example is a further window of the row of the one before, bool [B]."""
        return self.arrays["continues"].astype(bool) if "continues" in self.arrays else np.zeros(len(self), bool)

    @property
    def features(self) -> np.ndarray | None:
        """The teacher's features at each position, float16 [P, H]; None where they are not stored."""
        return self.arrays.get("features")

    @cached_property
    def labels(self) -> np.ndarray:
        """The label of each position: as it is stored, whole numbers as int64, or for a causal LM the next token.

        int64 [P] (NO_LABEL: not known) where classes exclude each other; [P, C] where a label has a number per class.
        """
        if "labels" in self.arrays:
            stored = self.arrays["labels"]
            return stored.astype(np.int64) if stored.dtype.kind in "iu" else stored
        starts_B = self.bounds["token"][:-1]
        next_P = np.repeat(starts_B, self.arrays["position_counts"]) + self.arrays["positions"] + 1
        return self.arrays["tokens"][next_P].astype(np.int64)

    def targets(self) -> "TeacherTargets":
        """Decode the teacher's distributions.

        Returns:
            The distributions at all P positions, as torch tensors on the CPU.

        Raises:
            CacheError: The cache holds labels only.
        """
        return self.coded().targets()

    def coded(self, then: "Callable[[TeacherTargets], TeacherTargets] | None" = None) -> "Coded":
        """The same distributions as they are stored, as tensors: few bytes, to be decoded on another device.

        Args:
            then: What is made of the decoded records.

        Raises:
            CacheError: The cache holds labels only.
        """
        from kdcache.targets.coded import Coded

        kind = self.distribution
        if kind is None:
            raise CacheError(
                "this cache holds labels only, no teacher records: use cross_entropy terms, or dump with a teacher"
            )
        basis = None if self.load_basis is None else self.load_basis()
        return Coded.of(kind, self.arrays, self.num_classes, basis, then)

    @property
    def distribution(self) -> RecordKind | None:
        """The record that `targets` decodes; None where there is none."""
        return distribution_of(self.records)

    def slice(self, start: int, stop: int) -> "Batch":
        """Cut out some consecutive examples.

        Args:
            start: The first example.
            stop: One past the last.

        Returns:
            A batch of them, whose arrays are views.
        """
        return self.cut([start, stop])[0]

    def cut(self, edges: Sequence[int]) -> list["Batch"]:
        """Cut some consecutive examples into batches.

        Args:
            edges: The first example of each batch, and one past the last example.

        Returns:
            Batches whose arrays are views.
        """
        places = {level: bounds[edges].tolist() for level, bounds in self.bounds.items()}
        columns = [(f.name, self.arrays[f.name], places[f.level]) for f in array_fields(self.fields)]
        return [
            self._with({name: array[at[i] : at[i + 1]] for name, array, at in columns}) for i in range(len(edges) - 1)
        ]

    def take(self, indices: Sequence[int] | np.ndarray) -> "Batch":
        """Pick examples by number.

        Args:
            indices: Their numbers, in any order; repeats are allowed.

        Returns:
            A batch of them, in this order.
        """
        chosen = np.asarray(indices, np.int64)
        pick = {level: _picker(bounds[chosen], bounds[chosen + 1]) for level, bounds in self.bounds.items()}
        return self._with({f.name: pick[f.level](self.arrays[f.name]) for f in array_fields(self.fields)})

    @cached_property
    def bounds(self) -> dict[Level, np.ndarray]:
        """Level -> int64 [B + 1], where each example's elements of this level start; the last is their number."""
        bounds: dict[Level, np.ndarray] = {"example": np.arange(len(self) + 1)}
        for level in levels_of(self.fields):
            starts = np.zeros(len(self.arrays[COUNTS[level]]) + 1, np.int64)
            np.cumsum(self.arrays[COUNTS[level]], out=starts[1:])
            bounds[level] = starts[bounds["position"]] if level == "entry" else starts
        return bounds

    def _of(self, name: str, level: Level, i: int) -> np.ndarray:
        bounds = self.bounds[level]
        return self.arrays[name][bounds[i] : bounds[i + 1]].astype(np.int64)

    def _with(self, arrays: dict[str, np.ndarray]) -> "Batch":
        return Batch(self.fields, arrays, self.records, self.num_classes, self.load_basis)


def concat(batches: Sequence[Batch]) -> Batch:
    """The examples of one or more batches of the same cache, one after the other."""
    first = batches[0]
    if len(batches) == 1:
        return first
    return first._with({name: np.concatenate([batch.arrays[name] for batch in batches]) for name in first.arrays})


def _picker(starts: np.ndarray, stops: np.ndarray) -> Callable[[np.ndarray], np.ndarray]:
    """A function that copies these ranges out of an array, one after the other.

    Long ranges are copied as blocks (0.5 µs each and memory speed), short ones gathered (5 ns an element).
    """
    if (stops - starts).sum() < LONG_RANGE * len(starts) or not len(starts):
        index = _ranges(starts, stops)
        return lambda array: array[index]
    blocks = [*map(slice, starts.tolist(), stops.tolist())]
    return lambda array: np.concatenate([array[block] for block in blocks])


def _ranges(starts: np.ndarray, stops: np.ndarray) -> np.ndarray:
    """The integers of starts[0]..stops[0], starts[1]..stops[1], … in one array."""
    lengths = stops - starts
    ends = np.cumsum(lengths)
    ranges = np.repeat(starts - (ends - lengths), lengths)
    ranges += np.arange(len(ranges))
    return ranges
