"""What becomes of a term at each position: as it is, or the source article's mean over classes. No torch here."""

from typing import Literal

from kdcache.errors import ConfigError
from kdcache.losses.divergence import Divergence

__all__ = ["Reduction", "check_reduction"]

Reduction = Literal["mean", "class_mean"]


def check_reduction(divergence: Divergence, reduction: str) -> None:
    """Raises ConfigError for a mean over classes of anything but a cross-entropy."""
    if reduction == "class_mean" and not divergence.is_cross_entropy:
        raise ConfigError(
            f"got reduction class_mean for kind {divergence.kind}, expected it only for forward_kl: it is the soft "
            "cross-entropy divided by the number of classes"
        )
