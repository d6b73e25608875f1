"""What a cache's classes are to the terms of a loss: how many a row has, and the weights that terms ask for."""

from collections.abc import Sequence

import numpy as np

from kdcache.errors import ConfigError
from kdcache.losses.softmax_term import SoftmaxTerm
from kdcache.losses.term import Term
from kdcache.store.cache import Cache
from kdcache.tasks import task_of

__all__ = ["check_terms", "class_weights", "row_classes"]


def row_classes(cache: Cache) -> int:
    """Columns of the rows that a loss compares: those of the cache, but two of each yes or no."""
    header = cache.manifest.header
    return task_of(header.task).row_classes(header.num_classes)


def check_terms(terms: Sequence[Term], cache: Cache) -> None:
    """Raises ConfigError for a term of a softmax where the cache's outputs are no logits of one."""
    task = task_of(cache.manifest.header.task)
    soft = next((term for term in terms if isinstance(term, SoftmaxTerm)), None)
    if soft is not None and not task.distributions:
        raise ConfigError(
            f"got {soft.spoken} term and {cache.root.url}, whose outputs are scores and no distribution "
            f"({task.name}), expected terms such as squared_error or cosine"
        )


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
