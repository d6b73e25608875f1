"""Which examples share a forward pass of the teacher: as many as compute.batch_tokens holds, padding included.

A batch is padded to its longest example, so its price is examples × longest. Sorted by length, what shares a batch is
about as long, and a batch holds few long examples or many short ones. Both functions are pure: what a unit's batches
are depends on the lengths of its examples alone, and so do the bits of their logits.
"""

from collections.abc import Sequence

import numpy as np

__all__ = ["in_order", "longest_first"]


def longest_first(lengths: Sequence[int], batch_tokens: int) -> list[np.ndarray]:
    """Sort a unit's examples into batches.

    Args:
        lengths: Tokens of each example.
        batch_tokens: Tokens of a batch at most, padding included. A longer example is a batch of its own.

    Returns:
        The numbers of the examples of each batch, int64: the longest first, equal lengths in order.
    """
    order = np.argsort(-np.asarray(lengths, np.int64), kind="stable")
    batches, start = [], 0
    while start < len(order):
        count = max(1, batch_tokens // max(1, lengths[order[start]]))
        batches.append(order[start : start + count])
        start += count
    return batches


def in_order(lengths: Sequence[int], batch_tokens: int) -> list[range]:
    """Cut examples into batches of neighbours, where their order counts.

    Args:
        lengths: Tokens of each example.
        batch_tokens: Tokens of a batch at most, padding included. A longer example is a batch of its own.

    Returns:
        The numbers of the examples of each batch.
    """
    batches, start, longest = [], 0, 0
    for stop, length in enumerate(lengths):
        longest = max(longest, length)
        if stop > start and (stop + 1 - start) * longest > batch_tokens:
            batches.append(range(start, stop))
            start, longest = stop, length
    return [*batches, range(start, len(lengths))] if len(lengths) else []
