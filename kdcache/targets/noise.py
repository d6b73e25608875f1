"""What records are worth at a temperature: how much mass they name, how noisy their gradient is, and what to change.

Sparse records of a language model are for temperatures up to about 1: above, a few drawn classes stand for most of the
mass. On a 135M model (49,152 classes, default record) the gradient's relative noise is 0.05 at T = 1 and 3 at T = 2.
"""

from dataclasses import dataclass

from kdcache.targets.record import TeacherTargets

__all__ = ["NOISE_LIMIT", "TAIL_LIMIT", "Worth", "advice", "worth_at"]

NOISE_LIMIT = 0.5
TAIL_LIMIT = 0.25


@dataclass(frozen=True)
class Worth:
    """Means over positions at one temperature.

    coverage: probability of the classes that are entries, of drawn records of the certain ones. tail_mass: probability
    outside the certain entries.
    effective_samples: how many equal draws stand for the tail, over positions with a tail; None where nothing is drawn.
    gradient_noise: E‖w − p‖² / E‖p‖², the expected squared error that sampling adds to a forward-KL gradient, with the
    unbiased weights, of drawn records at most this; 0 where nothing is drawn: a record without samples has bias in
    place of noise.
    """

    temperature: float
    coverage: float
    tail_mass: float
    effective_samples: float | None
    gradient_noise: float


def worth_at(targets: TeacherTargets, temperature: float) -> Worth:
    """Raises ConfigError for a temperature that the records do not answer."""
    effective_P = targets.effective_samples(temperature)
    effective_P = effective_P[effective_P.isfinite()]
    return Worth(
        temperature=temperature,
        coverage=targets.coverage(temperature).mean().item(),
        tail_mass=targets.tail_mass(temperature).mean().item(),
        effective_samples=effective_P.mean().item() if targets.draws and len(effective_P) else None,
        gradient_noise=(targets.sampling_variance(temperature).sum() / targets.squared_norm(temperature).sum()).item(),
    )


def advice(worth: Worth, *, sampled: bool) -> str | None:
    """What is wrong with training on this, and which setting helps; None if nothing.

    Args:
        worth: of some records at the loss's temperature.
        sampled: whether the loss uses the sampled entries, or compares everything but the certain ones as one class.
    """
    at = f"at temperature {worth.temperature:g}"
    if sampled and worth.gradient_noise > NOISE_LIMIT:
        lower = "lower the term's temperature towards 1, or " if worth.temperature > 1 else ""
        return (
            f"{at} sampling adds noise of {worth.gradient_noise:.1f} times the gradient's square (harmless up to "
            f"{NOISE_LIMIT:g}): {lower}dump again with more record.samples"
        )
    if not sampled and worth.tail_mass > TAIL_LIMIT:
        return (
            f"{at} {worth.tail_mass:.0%} of the teacher's probability lies outside the certain entries and is compared "
            "as one class: lower the temperature, use kind forward_kl on sampled records, or dump again with a larger "
            "record.exact_top_k"
        )
    return None
