"""The weights of classes that terms ask for, in the order of the cache's classes."""

from collections.abc import Sequence

import numpy as np

from kdcache.errors import ConfigError
from kdcache.losses.term import Term
from kdcache.store.cache import Cache
from kdcache.tasks import task_of

__all__ = ["class_weights"]


def class_weights(terms: Sequence[Term], cache: Cache) -> dict[int, list[float]]:
    """The place of each term that has class_weights -> a weight for each class.

    "balanced" is scikit-learn's: labelled positions / (classes that occur · positions of the class); a class without
    any has weight 1. A dump counts its labels; of a cache written by hand every shard is read once.
    Raises ConfigError for a language model, and for a label that is not one of the cache's.
    """
    found = {k: _weights(term, cache) for k, term in enumerate(terms) if term.needs_class_names}
    return {k: weights for k, weights in found.items() if weights is not None}


def _weights(term: Term, cache: Cache) -> list[float] | None:
    header = cache.manifest.header
    names = header.class_names
    if names and not task_of(header.task).exclusive:
        raise ConfigError(
            f"got class_weights in {term.spoken} term and {cache.root.url} of {header.task['name']}, expected a cache "
            "whose classes exclude each other"
        )
    if not names:
        raise ConfigError(
            f"got class_weights in {term.spoken} term and {cache.root.url}, a cache without names of classes, "
            "expected one of a classification"
        )
    return term.weights_of_classes(names, lambda: _counts(cache, names).tolist())


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
