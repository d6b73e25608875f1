"""TeacherTargets: a batch of records in memory, on any device.

P positions, E entries (padded), V classes.
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from kdcache.errors import ConfigError
from kdcache.targets.curve import TailCurve

__all__ = ["Estimator", "TeacherTargets"]

Estimator = Literal["normalised", "horvitz_thompson"]


@dataclass(frozen=True)
class TeacherTargets:
    """The teacher's distributions at P positions.

    ids_PE: class of each entry, largest logit first. logits_PE: raw logits. inclusion_PE: probability that the
    entry was kept; 1 = certain, 0 = padding. num_certain_P: the first so many entries of a row are certain.
    curve: the tail's moments, None when every class is an entry. tail: what a loss makes of the tail.
    """

    ids_PE: Tensor
    logits_PE: Tensor
    inclusion_PE: Tensor
    num_certain_P: Tensor
    num_classes: int
    curve: TailCurve | None
    tail: Literal["ghost", "renormalise"] = "ghost"

    @property
    def num_positions(self) -> int:
        return self.ids_PE.shape[0]

    @property
    def dense(self) -> bool:
        return self.curve is None

    def certain_PE(self) -> Tensor:
        """Which entries are certain, bool [P, E]."""
        return torch.arange(self.ids_PE.shape[1], device=self.ids_PE.device) < self.num_certain_P[:, None]

    def _certain_log_partition(self, temperature: float) -> Tensor:
        scaled = (self.logits_PE / temperature).masked_fill(~self.certain_PE(), -torch.inf)
        return scaled.logsumexp(-1)

    def log_partition(self, temperature: float) -> Tensor:
        """log Σ_classes exp(z / T) of the raw logits, [P], nats."""
        _check_temperature(temperature)
        certain_P = self._certain_log_partition(temperature)
        if self.curve is None:
            return certain_P
        return torch.logaddexp(certain_P, self.curve.at(temperature)[0])

    def log_probs(self, temperature: float) -> Tensor:
        """log p of each entry at T, [P, E]; −inf for padding."""
        log_probs_PE = self.logits_PE / temperature - self.log_partition(temperature)[:, None]
        return log_probs_PE.masked_fill(self.inclusion_PE == 0, -torch.inf)

    def tail_mass(self, temperature: float) -> Tensor:
        """Probability outside the certain entries at T, [P]."""
        if self.curve is None:
            return torch.zeros_like(self.logits_PE[:, 0])
        return (self.curve.at(temperature)[0] - self.log_partition(temperature)).exp()

    def entropy(self, temperature: float) -> Tensor:
        """−Σ p log p at T, [P], nats: log Z − β · mean."""
        log_partition_P = self.log_partition(temperature)
        probs_PE = self.log_probs(temperature).exp().masked_fill(~self.certain_PE(), 0.0)
        mean_P = (probs_PE * self.logits_PE).sum(-1)
        if self.curve is not None:
            mean_P = mean_P + self.tail_mass(temperature) * self.curve.at(temperature)[1]
        return log_partition_P - mean_P / temperature

    def weights(self, temperature: float, estimator: Estimator = "normalised") -> Tensor:
        """Target probabilities a loss uses, [P, E]: p_i(T) / π_i, 0 for padding.

        With tail "renormalise" the entries' mass is scaled to 1.
        """
        weights_PE = self.log_probs(temperature).exp()
        if self.tail == "renormalise":
            weights_PE = weights_PE / weights_PE.sum(-1, keepdim=True)
        return weights_PE

    def dense_log_probs(self, temperature: float) -> Tensor:
        """log p of every class at T, [P, V]. Raises ConfigError when the record is not dense."""
        if not self.dense:
            raise ConfigError(
                "got a sparse record, expected a dense one: it does not say how the tail is spread; "
                "dump with record.exact_top_k=all"
            )
        log_probs_PV = torch.empty_like(self.logits_PE)
        return log_probs_PV.scatter_(1, self.ids_PE, self.log_probs(temperature))

    def to(self, device: torch.device | str) -> "TeacherTargets":
        return replace(
            self,
            ids_PE=self.ids_PE.to(device),
            logits_PE=self.logits_PE.to(device),
            inclusion_PE=self.inclusion_PE.to(device),
            num_certain_P=self.num_certain_P.to(device),
            curve=None if self.curve is None else self.curve.to(device),
        )

    def __getitem__(self, index: slice | Tensor) -> "TeacherTargets":
        """The records of some positions."""
        return replace(
            self,
            ids_PE=self.ids_PE[index],
            logits_PE=self.logits_PE[index],
            inclusion_PE=self.inclusion_PE[index],
            num_certain_P=self.num_certain_P[index],
            curve=None if self.curve is None else self.curve[index],
        )


def _check_temperature(temperature: float) -> None:
    if not temperature > 0:
        raise ConfigError(f"got temperature {temperature}, expected a number above 0")
