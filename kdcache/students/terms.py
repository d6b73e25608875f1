"""loss_terms: the loss that some terms are on a cache, with what the cache's task and classes say of it."""

from collections.abc import Iterable, Mapping
from typing import Any

from kdcache.errors import ConfigError
from kdcache.losses.softmax_term import SoftmaxTerm
from kdcache.losses.term import Term, make_term
from kdcache.losses.terms import LossTerms
from kdcache.store.cache import Cache
from kdcache.stream.mixture import Mixture
from kdcache.students.class_weights import class_weights
from kdcache.tasks import task_of

__all__ = ["loss_terms"]


def loss_terms(
    terms: Iterable[Term | Mapping[str, Any]], cache: Cache | Mixture, beside: Iterable[Term] = ()
) -> LossTerms:
    """Make the loss of a training run on a cache.

    Args:
        terms: Terms that `make_term` made, or mappings as in a settings file: {"name": "divergence", "temperature": 2}.
        cache: Says how many classes a row of logits has and how often each label occurs; of a Mixture all its
            caches do.
        beside: Terms that the student itself brings, such as the balancing loss of a mixture of experts.

    Returns:
        What `StudentWithLoss` and `HeadLoss` take.

    Raises:
        ConfigError: A term is wrong, weighs classes that the cache does not have, or is one of a softmax where the
            cache's outputs are no logits of one.
    """
    made = tuple(term if isinstance(term, Term) else make_term(**term) for term in terms)
    mixture = Mixture.of(cache)
    first = mixture.caches[0]
    header = first.manifest.header
    task = task_of(header.task)
    soft = next((term for term in made if isinstance(term, SoftmaxTerm)), None)
    if soft is not None and not task.distributions:
        raise ConfigError(
            f"got {soft.spoken} term and {first.root.url}, whose outputs are scores and no distribution "
            f"({task.name}), expected terms such as squared_error or cosine"
        )
    return LossTerms((*made, *beside), task.row_classes(header.num_classes), class_weights(made, mixture))
