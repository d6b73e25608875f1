"""Checks of what is stored for a position, whoever made it."""

from typing import Any

import numpy as np

from kdcache.errors import CacheError

__all__ = ["as_integers", "check_classes"]


def as_integers(values: Any, what: str) -> np.ndarray:
    """A flat int64 array. Raises CacheError for another shape or for numbers that are not integers."""
    array = np.asarray(values.cpu() if hasattr(values, "cpu") else values)
    if array.ndim != 1 or (array.size and array.dtype.kind not in "iu"):
        raise CacheError(f"got {what} {array.dtype}{[*array.shape]}, expected a flat array of integers")
    return array.astype(np.int64)


def check_classes(known_P: np.ndarray, num_classes: int, otherwise: str = "") -> None:
    """Raises CacheError for labels that are no class ids. otherwise: what else they may be, for the message."""
    if len(known_P) and not 0 <= known_P.min() <= known_P.max() < num_classes:
        raise CacheError(
            f"got labels {known_P.min()} to {known_P.max()}, expected class ids from 0 to {num_classes - 1}{otherwise}"
        )
