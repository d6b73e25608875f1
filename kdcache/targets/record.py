"""TeacherTargets: a batch of records in memory, on any device.

P positions, E entries (padded), V classes, R directions of a basis.
"""

import math
from dataclasses import dataclass, replace
from typing import Literal, get_args

import torch
from torch import Tensor

from kdcache.errors import ConfigError
from kdcache.targets.basis import Basis
from kdcache.targets.curve import TailCurve
from kdcache.targets.never import LOG_NEVER, is_never
from kdcache.targets.whole import dot, factored_log_probs, factored_probs

__all__ = ["Estimator", "TeacherTargets"]

Estimator = Literal["normalised", "horvitz_thompson"]


@dataclass(frozen=True)
class TeacherTargets:
    """The teacher's distributions at P positions.

    ids_PE: class of each entry, largest logit first. relative_PE: raw logits minus maximum_P, the row's largest: logits
    far from 0 keep their digits. inclusion_PE: probability that the entry was kept; 1 = certain, 0 = padding.
    num_certain_P: the first so many entries of a row are certain. curve: the tail's moments, of logits relative to
    maximum_P too, None when every class is an entry. tail: what stands for the classes that are not
    certain entries: "sampled", the other entries; "ghost", one extra class with their exact mass; "renormalise",
    nothing; "factored", the logits that coefficients_PR, int8, stand for in the basis. With "sampled" those may be
    there too. some_without_tail: whether a row may have no tail, known without asking the device.
    """

    ids_PE: Tensor
    relative_PE: Tensor
    maximum_P: Tensor
    inclusion_PE: Tensor
    num_certain_P: Tensor
    num_classes: int
    curve: TailCurve | None
    tail: Literal["sampled", "ghost", "renormalise", "factored"] = "ghost"
    coefficients_PR: Tensor | None = None
    basis: Basis | None = None
    some_without_tail: bool = False

    @property
    def num_positions(self) -> int:
        return self.ids_PE.shape[0]

    @property
    def dense(self) -> bool:
        return self.curve is None

    @property
    def factored(self) -> bool:
        """Whether it has a factored tail, and so a value for every class."""
        return self.basis is not None

    @property
    def logits_PE(self) -> Tensor:
        """Raw logits of the entries, [P, E]; −inf of classes that are never given."""
        return (self.relative_PE + self.maximum_P[:, None]).masked_fill(is_never(self.relative_PE), -torch.inf)

    def certain_PE(self) -> Tensor:
        """Which entries are certain, bool [P, E]."""
        return torch.arange(self.ids_PE.shape[1], device=self.ids_PE.device) < self.num_certain_P[:, None]

    def _relative_log_partition(self, temperature: float) -> Tensor:
        if not 0 < temperature < math.inf:
            raise ConfigError(f"got temperature {temperature:g}, expected a finite number above 0")
        certain_PE = (self.relative_PE / temperature).masked_fill(~self.certain_PE(), -torch.inf)
        certain_P = certain_PE.logsumexp(-1)
        if self.curve is None:
            return certain_P
        return torch.logaddexp(certain_P, self.curve.at(temperature)[0])

    def log_partition(self, temperature: float) -> Tensor:
        """log Σ_classes exp(z / T) of the raw logits, [P], nats."""
        return self._relative_log_partition(temperature) + self.maximum_P / temperature

    def log_probs(self, temperature: float) -> Tensor:
        """log p of each entry at T, [P, E]; −inf for padding, −240 for a class that is never given."""
        shift_P1 = temperature * self._relative_log_partition(temperature)[:, None]
        # A dense record is exact to 1e-5, and near −100 the rounding of three float32 operations is as much.
        relative_PE = self.relative_PE.double() if self.dense else self.relative_PE
        log_probs_PE = ((relative_PE - shift_P1) / temperature).to(self.relative_PE.dtype)
        if self.dense:
            log_probs_PE = log_probs_PE.masked_fill_(is_never(self.relative_PE), LOG_NEVER)
        return log_probs_PE.masked_fill(self.inclusion_PE == 0, -torch.inf)

    def log_tail_mass(self, temperature: float) -> Tensor:
        """log of the probability outside the certain entries at T, [P]; −inf where nothing is."""
        if self.curve is None:
            return torch.full_like(self.maximum_P, -torch.inf)
        return self.curve.at(temperature)[0] - self._relative_log_partition(temperature)

    def tail_mass(self, temperature: float) -> Tensor:
        """Probability outside the certain entries at T, [P]."""
        return self.log_tail_mass(temperature).exp()

    def entropy(self, temperature: float) -> Tensor:
        """−Σ p log p at T, [P], nats; of the tail by its mass and mean: mass · (log Z − mean / T)."""
        log_probs_PE = self.log_probs(temperature).masked_fill(~self.certain_PE(), 0.0)
        entropy_P = -(log_probs_PE.exp() * log_probs_PE).sum(-1)
        if self.curve is None:
            return entropy_P
        mean_P = self.curve.at(temperature)[1]
        surprise_P = self._relative_log_partition(temperature) - mean_P / temperature
        return entropy_P + self.tail_mass(temperature) * surprise_P

    def weights(self, temperature: float, estimator: Estimator = "normalised") -> Tensor:
        """Target probabilities a loss uses, [P, E]: p_i(T) / π_i, 0 for padding.

        "horvitz_thompson" (1952) is unbiased at every T, but for the rounding of stored logits: one that it moved by δ
        nats counts exp(δ (1/T − 1/T_proposal)) times what it should. "normalised" scales the sampled entries to the
        tail's exact mass, so that a row sums to 1: less noise, and a bias of the order of one over the number sampled.
        With tail "renormalise" the entries' mass is scaled to 1.
        """
        if estimator not in get_args(Estimator):
            raise ConfigError(f"got estimator {estimator!r}, expected one of {', '.join(get_args(Estimator))}")
        log_weights_PE = self.log_probs(temperature) - self.inclusion_PE.log().masked_fill(self.inclusion_PE == 0, 0.0)
        if self.tail == "renormalise":
            return log_weights_PE.softmax(-1)
        if self.tail != "sampled" or estimator == "horvitz_thompson":
            return log_weights_PE.exp()
        certain_PE = self.certain_PE()
        sampled_PE = log_weights_PE.masked_fill(certain_PE, -torch.inf)
        share_PE = (sampled_PE - sampled_PE.amax(-1, keepdim=True).clamp(min=-1e30)).exp()
        scale_P = self.tail_mass(temperature) / share_PE.sum(-1).clamp(min=1e-30)
        return torch.where(certain_PE, log_weights_PE.exp(), share_PE * scale_P[:, None])

    def effective_samples(self, temperature: float) -> Tensor:
        """(Σw)² / Σw² of the sampled entries at T, [P]: how many equal draws would be as noisy (Kish 1965).

        0 where a tail has no sampled entry to stand for it, infinite where there is no tail or a factored one.
        """
        if self.curve is None or self.tail == "factored":
            return torch.full_like(self.maximum_P, torch.inf)
        sampled_PE = (self.inclusion_PE > 0) & ~self.certain_PE()
        log_weights_PE = self.log_probs(temperature) - self.inclusion_PE.log()
        shares_PE = log_weights_PE.masked_fill(~sampled_PE, -torch.inf)
        shares_PE = (shares_PE - shares_PE.amax(-1, keepdim=True).clamp(min=-1e30)).exp()
        effective_P = shares_PE.sum(-1) ** 2 / (shares_PE**2).sum(-1).clamp(min=1e-30)
        return effective_P.masked_fill(self.curve.empty_P, torch.inf)

    def sampling_variance(self, temperature: float) -> Tensor:
        """Expected ‖w − p‖² of the Horvitz-Thompson weights at T, [P]: the gradient noise that sampling adds.

        Estimated from the record itself, Σ w² (1 − π) over its entries, as if classes were drawn independently
        (systematic sampling does a little better). Not defined for the bias of records without samples: 0 there.
        """
        weights_PE = self.weights(temperature, "horvitz_thompson")
        return (weights_PE**2 * (1.0 - self.inclusion_PE)).sum(-1)

    def dense_log_probs(self, temperature: float) -> Tensor:
        """log p of every class at T, [P, V]; call it on a chunk of positions.

        Of a factored record certain entries are exact and the others share the tail's exact mass as its coefficients
        say. Raises ConfigError when the record is neither dense nor factored.
        """
        if self.factored:
            return factored_log_probs(self, temperature)
        if not self.dense:
            raise ConfigError(
                "got a sparse record, expected a dense or a factored one: it does not say how the tail is spread; "
                "dump with record.factor, or with record.exact_top_k=all"
            )
        log_probs_PV = torch.empty_like(self.relative_PE)
        return log_probs_PV.scatter_(1, self.ids_PE, self.log_probs(temperature))

    def dense_probs(self, temperature: float) -> tuple[Tensor, Tensor]:
        """(p of every class at T [P, V], Σ p log p [P]) of the distribution that `dense_log_probs` gives."""
        if self.factored:
            return factored_probs(self, temperature)
        log_p_PV = self.dense_log_probs(temperature)
        p_PV = log_p_PV.exp()
        return p_PV, dot(p_PV, log_p_PV)

    def to(self, device: torch.device | str) -> "TeacherTargets":
        return replace(
            self,
            ids_PE=self.ids_PE.to(device),
            relative_PE=self.relative_PE.to(device),
            maximum_P=self.maximum_P.to(device),
            inclusion_PE=self.inclusion_PE.to(device),
            num_certain_P=self.num_certain_P.to(device),
            curve=None if self.curve is None else self.curve.to(device),
            coefficients_PR=None if self.coefficients_PR is None else self.coefficients_PR.to(device),
            basis=None if self.basis is None else self.basis.to(device),
        )

    def __getitem__(self, index: slice | Tensor) -> "TeacherTargets":
        """The records of some positions."""
        return replace(
            self,
            ids_PE=self.ids_PE[index],
            relative_PE=self.relative_PE[index],
            maximum_P=self.maximum_P[index],
            inclusion_PE=self.inclusion_PE[index],
            num_certain_P=self.num_certain_P[index],
            curve=None if self.curve is None else self.curve[index],
            coefficients_PR=None if self.coefficients_PR is None else self.coefficients_PR[index],
        )
