"""The kinds of divergence and their parameters. No torch here, so that a config is checked in milliseconds.

forward_kl        none                          KL(teacher ‖ student)
reverse_kl        none                          KL(student ‖ teacher)
jsd               beta, 0.5                     generalised Jensen-Shannon divergence
skew_kl           alpha, 0.1                    KL(teacher ‖ α · teacher + (1 − α) · student)
skew_reverse_kl   alpha, 0.1                    KL(student ‖ α · student + (1 − α) · teacher)
tvd               none                          total variation distance
alpha_beta        alpha and beta, no default    α-β-divergence
"""

import math
from collections.abc import Callable, Mapping
from typing import Literal, NamedTuple, get_args

from kdcache.errors import ConfigError

__all__ = ["Kind", "Reduction", "check_reduction", "kind_parameters"]

Kind = Literal["forward_kl", "reverse_kl", "jsd", "skew_kl", "skew_reverse_kl", "tvd", "alpha_beta"]
Reduction = Literal["mean", "class_mean"]


class _Range(NamedTuple):
    default: float | None
    holds: Callable[[float], bool]
    expected: str


_BETA = _Range(
    0.5, lambda b: 0 < b < 1, "0 < beta < 1: towards 0 it is beta · forward_kl, towards 1 (1 − beta) · reverse_kl"
)
_SKEW = _Range(0.1, lambda a: 0 <= a < 1, "0 ≤ alpha < 1: at 1 it is 0 everywhere")
_POWER = _Range(None, lambda x: 0 <= x < math.inf, "a finite number of 0 or more")

_PARAMETERS: dict[str, dict[str, _Range]] = {
    "jsd": {"beta": _BETA},
    "skew_kl": {"alpha": _SKEW},
    "skew_reverse_kl": {"alpha": _SKEW},
    "alpha_beta": {"alpha": _POWER, "beta": _POWER},
}


def kind_parameters(kind: str, given: Mapping[str, float]) -> dict[str, float]:
    """All parameters of a kind, the defaults where none are given. Raises ConfigError for a wrong kind or parameter."""
    if kind not in get_args(Kind):
        raise ConfigError(f"got kind {kind!r}, expected one of {', '.join(get_args(Kind))}")
    ranges = _PARAMETERS.get(kind, {})
    for name in given.keys() - ranges.keys():
        expected = f"only {' and '.join(ranges)}" if ranges else "none: this kind has no parameter"
        raise ConfigError(f"got {name} for kind {kind}, expected {expected}")
    parameters = {}
    for name, (default, holds, expected) in ranges.items():
        value = given.get(name, default)
        if value is None:
            raise ConfigError(f"got kind {kind} without {name}, expected {expected}, e.g. {name}: 0.5")
        if not holds(value):
            raise ConfigError(f"got {name} {value:g} for kind {kind}, expected {expected}")
        parameters[name] = float(value)
    return parameters


def check_reduction(kind: str, reduction: str) -> None:
    """Raises ConfigError for a mean over classes of anything but a cross-entropy."""
    if reduction == "class_mean" and kind != "forward_kl":
        raise ConfigError(
            f"got reduction class_mean for kind {kind}, expected it only for forward_kl: it is the soft cross-entropy "
            "divided by the number of classes"
        )
