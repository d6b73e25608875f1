"""The weights of classes that cross_entropy terms ask for, in the order of the cache's classes."""

from collections.abc import Sequence

import numpy as np

from kdcache.errors import ConfigError
from kdcache.losses.settings import TermConfig
from kdcache.store.cache import Cache

__all__ = ["class_weights"]


def class_weights(terms: Sequence[TermConfig], cache: Cache) -> dict[int, list[float]]:
    """The place of each term that has class_weights -> a weight for each class.

    "balanced" is scikit-learn's: labelled positions / (classes that occur · positions of the class); a class without
    any has weight 1. A dump counts its labels; of a cache written by hand every shard is read once.
    Raises ConfigError for a language model, and for a label that is not one of the cache's.
    """
    return {k: _weights(term, cache) for k, term in enumerate(terms) if term.class_weights is not None}


def _weights(term: TermConfig, cache: Cache) -> list[float]:
    names = cache.manifest.header.class_names
    if not names:
        raise ConfigError(
            f"got class_weights in a cross_entropy term and {cache.root.url}, a cache without names of classes, "
            "expected one of a classification"
        )
    if isinstance(term.class_weights, dict):
        unknown = [name for name in term.class_weights if name not in names]
        if unknown:
            raise ConfigError(f"got class_weights of {unknown[0]}, expected some of the cache's: {', '.join(names)}")
        return [term.class_weights.get(name, 1.0) for name in names]
    counts_C = _counts(cache, names)
    occurring = np.count_nonzero(counts_C)
    return [counts_C.sum() / (occurring * count) if count else 1.0 for count in counts_C.tolist()]


def _counts(cache: Cache, names: Sequence[str]) -> np.ndarray:
    """Positions of each label."""
    notes = cache.manifest.totals.notes
    counts_C = np.array([notes.get(f"labelled {name}", 0) for name in names])
    if counts_C.sum():
        return counts_C
    for shard in range(len(cache.shard_examples)):
        labels_P = cache.read_shard(shard).labels
        counts_C += np.bincount(labels_P[labels_P >= 0], minlength=len(names))
    return counts_C
