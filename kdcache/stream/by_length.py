"""Micro-batches of examples of like length, so that little of them is padding. Pure functions."""

import numpy as np

__all__ = ["longest_first"]


def longest_first(lengths: np.ndarray) -> np.ndarray:
    """The order in which a step's examples are cut into micro-batches, by the lengths along the last axis.

    Examples of one length keep their order, so that windows of packed text do. Most memory is needed at once, in the
    first micro-batch, and all ranks have their long ones at the same time.
    """
    return np.argsort(-lengths, axis=-1, kind="stable")
