"""What a caller gives as an example to an Example that can be stored, checked once: here.

P positions, L tokens.
"""

from typing import TYPE_CHECKING, Any

import numpy as np

from kdcache.errors import CacheError
from kdcache.store.manifest import Header
from kdcache.tasks.registry import task_of
from kdcache.tasks.stored import as_integers

if TYPE_CHECKING:
    from kdcache.tasks.example import Example

__all__ = ["Array", "checked_example"]

Array = Any
"""A sequence, numpy array or torch tensor of numbers."""


def checked_example(
    header: Header,
    tokens: Array,
    *,
    positions: Array | None = None,
    labels: Array | None = None,
    documents: Array | None = None,
    types: Array | None = None,
    continues: bool = False,
) -> "Example":
    """An example of this cache, its arrays int64, its labels as the task stores them.

    Args:
        header: of the cache.
        tokens: integers [L].
        positions: by default those of the task.
        labels: what the task takes for each position; a causal LM needs none, they are the tokens after the positions.
        documents: token counts, by default one document.
        types: token types of a classification, by default the number of the document.
        continues: whether it is a further window of the row of the example before.

    Raises:
        CacheError: for what cannot be stored.
    """
    from kdcache.tasks.example import Example

    task = task_of(header.task)
    tokens_L = as_integers(tokens, "tokens")
    L = len(tokens_L)
    limit = header.tokenizer.vocab_size if header.tokenizer else np.iinfo(_dtype(header, "tokens")).max + 1
    if L == 0:
        raise CacheError("got an example of no tokens, expected at least one")
    if tokens_L.min() < 0 or tokens_L.max() >= limit:
        raise CacheError(f"got token ids {tokens_L.min()} to {tokens_L.max()}, expected 0 to {limit - 1}")
    positions_P = as_integers(task.default_positions(L) if positions is None else positions, "positions")
    end = task.end(L)
    if len(positions_P) and (positions_P[0] < 0 or positions_P[-1] >= end or (np.diff(positions_P) <= 0).any()):
        last = f"the example has {L} tokens" if end == L else "the last token has no next one to predict"
        raise CacheError(f"got positions {_some(positions_P)}, expected them ascending from 0 to {end - 1}: {last}")
    documents_D = np.array([L]) if documents is None else as_integers(documents, "documents")
    if documents_D.sum() != L or (documents_D <= 0).any():
        raise CacheError(f"got document lengths {_some(documents_D)}, expected ones above 0 that sum to {L}")
    types_L = np.arange(len(documents_D)).repeat(documents_D) if types is None else as_integers(types, "token types")
    if len(types_L) != L or (not task.generates and not 0 <= types_L.min() <= types_L.max() < 256):
        raise CacheError(f"got token types {_some(types_L)}, expected {L} of them from 0 to 255, one per token")
    labels_P = task.checked_labels(labels, tokens_L, positions_P, header.num_classes)
    return Example(tokens_L, positions_P, labels_P, documents_D, continues, types_L)


def _dtype(header: Header, name: str) -> str:
    return next(field.dtype for field in header.fields if field.name == name)


def _some(values: np.ndarray) -> str:
    shown = ", ".join(str(value) for value in values[:8])
    return f"{shown}, …" if len(values) > 8 else shown or "none"
