"""The weights of classes that terms ask for, in the order of the cache's classes."""

from collections.abc import Sequence

import numpy as np

from kdcache.errors import ConfigError
from kdcache.losses.term import Term
from kdcache.store.cache import Cache
from kdcache.stream.mixture import Mixture
from kdcache.tasks import task_of

__all__ = ["class_weights"]


def class_weights(terms: Sequence[Term], caches: Cache | Mixture) -> dict[int, list[float]]:
    """The place of each term that has class_weights -> a weight for each class.

    "balanced" is scikit-learn's: labelled positions / (classes that occur · positions of the class); a class without
    any has weight 1. A dump counts its labels; of a cache written by hand every shard is read once.
    In a mixture the labels of a cache count as often as its share of the samples brings them.
    Raises ConfigError for a language model, and for a label that is not one of the cache's.
    """
    mixture = Mixture.of(caches)
    found = {k: _weights(term, mixture) for k, term in enumerate(terms) if term.needs_class_names}
    return {k: weights for k, weights in found.items() if weights is not None}


def _weights(term: Term, mixture: Mixture) -> list[float] | None:
    cache = mixture.caches[0]
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
    return term.weights_of_classes(names, lambda: _counts_of_all(mixture, names).tolist())


def _counts_of_all(mixture: Mixture, names: Sequence[str]) -> np.ndarray:
    """Positions of each label, in so many samples as the first cache has examples."""
    counts_KC = [_counts(cache, names) for cache in mixture.caches]
    if mixture.alone:
        return counts_KC[0]
    rates = [share / len(cache) for cache, share in zip(mixture.caches, mixture.shares, strict=True)]
    weighed_KC = [rate / rates[0] * counts_C for rate, counts_C in zip(rates, counts_KC, strict=True)]
    return np.sum(weighed_KC, axis=0)


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
