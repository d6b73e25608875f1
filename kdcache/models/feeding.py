"""Feeding: how a model is fed with examples, the same when it is checked and when it runs.

Usually the rows of a batch go through together, padded, and the documents of a packed row stay in it. For a model whose
logits depend on such neighbours (neighbours.py finds out), rows may be run in passes of equal length or one by one, and
the documents of a packed row as rows of their own: the records are the same positions in the same order.

B examples, L tokens of the longest, P positions.
"""

from collections.abc import Iterable, Iterator, Sequence
from dataclasses import dataclass
from typing import Any, Literal, Self

import numpy as np
from torch import Tensor

from kdcache.models.inputs import Attention, ModelInputs, flat_positions, flattens, model_inputs
from kdcache.tasks.example import Example

__all__ = ["Feeding", "Together"]

Together = Literal["any", "equal", "one"]
Row = tuple[np.ndarray, np.ndarray, np.ndarray, np.ndarray | None]  # tokens, documents, positions, types


@dataclass(frozen=True)
class Feeding:
    """attention, pad, flatten: see `model_inputs`; pad None takes a token that no row of the pass ends with. types:
    whether the model is fed its examples' token types.

    together: which rows share a forward pass: any of a batch, those of equal length, or one. apart: whether each
    document of a packed row is a row of its own.
    """

    attention: Attention
    pad: int | None = 0
    types: bool = False
    flatten: bool = False
    together: Together = "any"
    apart: bool = False

    @classmethod
    def of(cls, model: Any, attention: Attention, types: bool = False) -> Self:
        """As the model is fed unless its logits depend on the neighbours."""
        pad = getattr(model.config, "pad_token_id", None) or 0
        return cls(attention, pad if pad >= 0 else None, types, flattens(model, attention))

    def inputs(
        self,
        tokens: Sequence[np.ndarray],
        documents: Sequence[np.ndarray],
        types: Sequence[np.ndarray | None] = (),
    ) -> ModelInputs:
        """Of one forward pass over these rows, whatever `together` and `apart` say. types: where examples have them."""
        given = [row for row in types if row is not None] if self.types else []
        pad = self.pad
        if pad is None:
            last = {int(row[-1]) for row in tokens}
            pad = next(token for token in range(len(last) + 1) if token not in last)
        return model_inputs(tokens, documents, self.attention, self.flatten, pad=pad, types=given or None)

    def passes(self, examples: Sequence[Example]) -> Iterator[tuple[ModelInputs, Tensor]]:
        """(inputs, int64 indices of the positions into their B·L tokens) of each forward pass over a batch.

        The positions of all passes, one after the other, are those of the examples. No pass has more tokens, padding
        included, than the examples padded to the longest.
        """
        room = len(examples) * max(len(example.tokens) for example in examples)
        for rows in self._groups(self._rows(examples), room):
            tokens, documents, positions, types = ([*column] for column in zip(*rows, strict=True))
            yield self.inputs(tokens, documents, types), flat_positions(positions, max(map(len, tokens)))

    def _rows(self, examples: Sequence[Example]) -> Iterator[Row]:
        for example in examples:
            if not (self.apart and self.attention == "document"):
                yield example.tokens, example.documents, example.positions, example.types
                continue
            ends = np.cumsum(example.documents)
            for start, end in zip(ends - example.documents, ends, strict=True):
                inside = (example.positions >= start) & (example.positions < end)
                if inside.any():
                    own = example.positions[inside] - start
                    yield example.tokens[start:end], np.array([end - start]), own, None

    def _groups(self, rows: Iterable[Row], room: int) -> Iterator[list[Row]]:
        group: list[Row] = []
        for row in rows:
            if group and not self._joins(row, group, room):
                yield group
                group = []
            group.append(row)
        if group:
            yield group

    def _joins(self, row: Row, group: list[Row], room: int) -> bool:
        length, longest = len(row[0]), max(len(tokens) for tokens, *_ in group)
        if self.together == "one" or (self.together == "equal" and length != longest):
            return False
        return (len(group) + 1) * max(length, longest) <= room
