"""DIVERGENCES and TERMS: the kinds of divergence and of loss terms by name, a user's own among them."""

from typing import TYPE_CHECKING

from kdcache.errors import ConfigError
from kdcache.registry import Registry

if TYPE_CHECKING:
    from kdcache.losses.divergence import Divergence
    from kdcache.losses.term import Term

__all__ = ["DIVERGENCES", "TERMS", "register_divergence", "register_term"]

DIVERGENCES: "Registry[type[Divergence]]" = Registry(
    "divergence",
    {
        "forward_kl": "kdcache.losses.forward_kl:ForwardKL",
        "reverse_kl": "kdcache.losses.reverse_kl:ReverseKL",
        "jsd": "kdcache.losses.jensen_shannon:JensenShannon",
        "skew_kl": "kdcache.losses.skew_kl:SkewKL",
        "skew_reverse_kl": "kdcache.losses.skew_kl:SkewReverseKL",
        "tvd": "kdcache.losses.total_variation:TotalVariation",
        "alpha_beta": "kdcache.losses.alpha_beta:AlphaBeta",
    },
)

TERMS: "Registry[type[Term]]" = Registry(
    "term",
    {
        "divergence": "kdcache.losses.divergence_term:DivergenceTerm",
        "cross_entropy": "kdcache.losses.cross_entropy_term:CrossEntropyTerm",
        "entropy": "kdcache.losses.entropy_term:EntropyTerm",
        "bottleneck": "kdcache.losses.bottleneck_term:BottleneckTerm",
        "squared_error": "kdcache.losses.squared_error:SquaredErrorTerm",
        "cosine": "kdcache.losses.cosine:CosineTerm",
    },
)


def register_divergence(divergence: "type[Divergence]") -> "type[Divergence]":
    """Make a divergence known by its `kind`, for `terms: [{name: divergence, kind: …}]` and `distillation_loss`.

    Args:
        divergence: A subclass of `kdcache.losses.Divergence` whose field `kind` has its name as the default.

    Returns:
        The class itself, so that this also serves as a decorator.

    Raises:
        ConfigError: The class has no name of its own, or another one has it.
    """
    DIVERGENCES.register(_name(divergence, "kind"), divergence)
    return divergence


def register_term(term: "type[Term]") -> "type[Term]":
    """Make a loss term known by its `name`, for `terms: [{name: …}]`.

    Args:
        term: A subclass of `kdcache.losses.SoftmaxTerm`, `OutputTerm` or `BesideTerm` whose field `name` has its name
            as the default.

    Returns:
        The class itself, so that this also serves as a decorator.

    Raises:
        ConfigError: The class has no name of its own, or another one has it.
    """
    TERMS.register(_name(term, "name"), term)
    return term


def _name(cls: "type[Divergence] | type[Term]", key: str) -> str:
    field = cls.model_fields.get(key)
    if field is None or not isinstance(field.default, str):
        raise ConfigError(f'got {cls.__name__} without a {key}, expected one such as {key}: Literal["mine"] = "mine"')
    return field.default
