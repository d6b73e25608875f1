"""Token streams -> examples.

A token is learnable when it may be a label. Position t is supervised when token t + 1 is learnable and is in the
same piece, so the first token of a piece is never a label. Linear in tokens, vectorised in numpy.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from kdcache.tasks.example import Example

__all__ = ["Document", "Placed", "one_each", "placed_each", "placed_windows", "windows"]

Document = tuple[np.ndarray, np.ndarray]  # tokens int64 [L], learnable bool [L]
Placed = tuple[int, Example]
"""An example, and where it begins in the tokens of all documents one after the other."""


def windows(
    documents: Sequence[Document], length: int, attention: Literal["document", "causal"]
) -> tuple[list[Example], int]:
    """Documents joined and cut every `length` tokens; the rest is a shorter last window.

    attention "document": a piece is a document's part of a window; "causal": a piece is a window.
    Returns examples and how many windows had no supervised position and were left out.
    """
    return _supervised(placed_windows(documents, length, attention))


def one_each(documents: Sequence[Document]) -> tuple[list[Example], int]:
    """One example a document, and how many had no supervised position and were left out."""
    return _supervised(placed_each(documents))


def placed_windows(
    documents: Sequence[Document], length: int, attention: Literal["document", "causal"]
) -> list[Placed]:
    """What `windows` makes, with those that have no supervised position."""
    if not documents:
        return []
    tokens = np.concatenate([tokens for tokens, _ in documents])
    learnable = np.concatenate([learnable for _, learnable in documents])
    total = len(tokens)
    ends = np.append(np.arange(length, total, length), total)
    if attention == "document":
        document_ends = np.cumsum([len(tokens) for tokens, _ in documents])
        ends = np.union1d(ends, document_ends[document_ends > 0])
    supervised = np.append(learnable[1:], False)
    supervised[ends - 1] = False
    examples = []
    for start in range(0, total, length):
        stop = min(start + length, total)
        inside = ends[np.searchsorted(ends, start, side="right") : np.searchsorted(ends, stop) + 1]
        pieces = np.diff(inside, prepend=start)
        examples.append((start, _example(tokens[start:stop], np.flatnonzero(supervised[start:stop]), pieces)))
    return examples


def placed_each(documents: Sequence[Document]) -> list[Placed]:
    """What `one_each` makes, with those that have no supervised position."""
    starts = np.cumsum([0, *(len(tokens) for tokens, _ in documents)]).tolist()
    return [
        (start, _example(tokens, np.flatnonzero(learnable[1:]), np.array([len(tokens)])))
        for start, (tokens, learnable) in zip(starts, documents, strict=False)
    ]


def _example(tokens: np.ndarray, positions: np.ndarray, pieces: np.ndarray) -> Example:
    return Example(tokens, positions, tokens[positions + 1], pieces)


def _supervised(placed: list[Placed]) -> tuple[list[Example], int]:
    kept = [example for _, example in placed if len(example.positions)]
    return kept, len(placed) - len(kept)
