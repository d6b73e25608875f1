"""Token streams -> examples.

A token is learnable when it may be a label. Position t is supervised when token t + 1 is learnable and is in the
same piece, so the first token of a piece is never a label. Linear in tokens, vectorised in numpy.
"""

from collections.abc import Sequence
from typing import Literal

import numpy as np

from kdcache.tasks.example import Example

__all__ = ["Document", "one_each", "windows"]

Document = tuple[np.ndarray, np.ndarray]  # tokens int64 [L], learnable bool [L]


def windows(
    documents: Sequence[Document], length: int, attention: Literal["document", "causal"]
) -> tuple[list[Example], int]:
    """Documents joined and cut every `length` tokens; the rest is a shorter last window.

    attention "document": a piece is a document's part of a window; "causal": a piece is a window.
    Returns examples and how many windows had no supervised position and were left out.
    """
    if not documents:
        return [], 0
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
        examples.append(_example(tokens[start:stop], np.flatnonzero(supervised[start:stop]), pieces))
    return _supervised(examples)


def one_each(documents: Sequence[Document]) -> tuple[list[Example], int]:
    """One example a document, and how many had no supervised position and were left out."""
    return _supervised(
        [_example(tokens, np.flatnonzero(learnable[1:]), np.array([len(tokens)])) for tokens, learnable in documents]
    )


def _example(tokens: np.ndarray, positions: np.ndarray, pieces: np.ndarray) -> Example:
    return Example(tokens, positions, tokens[positions + 1], pieces)


def _supervised(examples: list[Example]) -> tuple[list[Example], int]:
    kept = [example for example in examples if len(example.positions)]
    return kept, len(examples) - len(kept)
