"""DrawnTargets: certain classes with their probabilities, and drawn ones that share the rest, at one temperature.

P positions, E entries (padded).
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.errors import ConfigError
from kdcache.targets.record import Estimator, TeacherTargets

__all__ = ["DrawnTargets"]


@dataclass(frozen=True)
class DrawnTargets(TeacherTargets):
    """What the teacher's logits are up to a constant of the row is known of certain classes alone: their logits are
    T log p, so that the log-partition is 0. Logits, log-probabilities and inclusion probabilities of drawn classes are
    NaN. Certain entries come first, likeliest first; drawn ones by class.

    log_tail_P: log of the probability outside the certain entries, −inf for none.
    num_drawn_P: how many entries are drawn.
    temperature: the one that it answers.
    samples: N of the settings.
    each_has_certain: that each row has a certain entry, where it is known without asking the device.
    stored_entropy_P: of the whole distribution at T; None where it is not kept.
    label_loss_P: −log p of the label at T = 1; None where it is not kept.
    """

    log_tail_P: Tensor
    num_drawn_P: Tensor
    temperature: float
    samples: int
    each_has_certain: bool = False
    stored_entropy_P: Tensor | None = None
    label_loss_P: Tensor | None = None

    draws = True
    keeps_raw_logits = False

    def weighs(self, temperature: float) -> bool:
        return True

    @property
    def knows_entropy(self) -> bool:  # type: ignore[override]
        return self.stored_entropy_P is not None

    def has_certain(self) -> bool:
        return self.each_has_certain or not bool((self.num_certain_P == 0).any())

    def knows_top(self) -> bool:
        return self.has_certain()

    @property
    def top_P(self) -> Tensor:
        return self.ids_PE[:, 0]

    def as_kept(self, logits_PV: Tensor) -> Tensor:
        return self.temperature * (logits_PV.double() / self.temperature).log_softmax(-1)

    def label_logits(self, labels_P: Tensor) -> Tensor | None:
        return None if self.label_loss_P is None else -self.label_loss_P

    def _check(self, temperature: float) -> None:
        if abs(temperature - self.temperature) > 1e-6 * self.temperature:
            raise ConfigError(
                f"temperature {temperature:g} is not in the cache: its drawn records answer {self.temperature:g} "
                f"alone; use it, or dump again with record.temperature {temperature:g} or with record.kind sampled, "
                "which answers any"
            )

    def _relative_log_partition(self, temperature: float) -> Tensor:
        self._check(temperature)
        return torch.zeros_like(self.maximum_P)

    def log_tail_mass(self, temperature: float) -> Tensor:
        self._check(temperature)
        return self.log_tail_P

    def entropy(self, temperature: float) -> Tensor:
        self._check(temperature)
        if self.stored_entropy_P is None:
            raise ConfigError(
                "got drawn records that do not keep the teacher's entropy, expected some that do: dump again with "
                "record.keep [entropy]"
            )
        return self.stored_entropy_P

    def weights(self, temperature: float, estimator: Estimator = "normalised") -> Tensor:
        """A drawn class weighs the tail's mass over the number drawn; `horvitz_thompson`: 1 / samples, or the tail's
        mass where that is less and one class is drawn.
        """
        self._check(temperature)
        self._check_estimator(estimator)
        tail_P = self.log_tail_P.exp()
        if estimator == "normalised":
            drawn_P = tail_P / self.num_drawn_P.clamp(min=1)
        else:
            drawn_P = tail_P.clamp(max=1 / self.samples)
        probs_PE = (self.relative_PE / temperature).exp()
        drawn_PE = drawn_P[:, None].expand_as(probs_PE).masked_fill(self.inclusion_PE == 0, 0.0)
        return torch.where(self.certain_PE(), probs_PE, drawn_PE)

    def effective_samples(self, temperature: float) -> Tensor:
        """The number drawn: they weigh the same. Infinite where there is no tail."""
        self._check(temperature)
        return self.num_drawn_P.float().masked_fill(self.log_tail_P == -torch.inf, torch.inf)

    def sampling_variance(self, temperature: float) -> Tensor:
        """At most: Σ p (w − p) over the tail, w the weight of a drawn class, is at most w · tail mass."""
        tail_P = self.log_tail_mass(temperature).exp()
        return tail_P * tail_P.clamp(max=1 / self.samples)

    def coverage(self, temperature: float) -> Tensor:
        """Of the certain entries: how likely the drawn ones are is not kept."""
        return 1.0 - self.log_tail_mass(temperature).exp()

    def squared_norm(self, temperature: float) -> Tensor:
        """Of the certain entries, which is nearly all of it."""
        return self.weights(temperature).masked_fill(~self.certain_PE(), 0.0).square().sum(-1)
