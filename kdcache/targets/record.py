"""TeacherTargets: the teacher's distributions at some positions, in memory on any device, and what they answer.

The base type of every distribution that a record kind decodes to. What differs between kinds is said by the object: a
loss never asks which kind it has.

    weighs(T)            whether forward KL at T does best with `weights`, those of a sample or of a renormalised top-k
    knows_every_class    whether `dense_log_probs` and `dense_probs` answer
    weights_are_whole    whether `weights` stand for the whole distribution, tail included
    draws                whether its entries were drawn, so that weights carry noise
    knows_entropy        whether `entropy` answers
    keeps_raw_logits     whether `logits_PE` are the teacher's, or its logits up to a constant of the row
    is_exact             whether the entries are all classes in order, each with the teacher's own logit
    wide                 whether it has as many numbers for each position as there are classes
    has_certain()        whether everything but the certain entries can be one class: each row has a certain entry
    knows_top_P, top_P   whether the likeliest class is sure to be an entry, and which it is
    with_exact_tail()    the same records with the tail's exact mass, whatever rule a loss uses for it

P positions, E entries (padded), V classes.
"""

import math
from collections.abc import Callable
from dataclasses import dataclass, fields
from typing import Literal, Self, get_args

import torch
from torch import Tensor

from kdcache.errors import ConfigError
from kdcache.targets.curve import TailCurve
from kdcache.targets.never import is_never

__all__ = ["Estimator", "TeacherTargets"]

Estimator = Literal["normalised", "horvitz_thompson"]


@dataclass(frozen=True)
class TeacherTargets:
    """The teacher's distributions at P positions.

    Attributes:
        ids_PE: The class of each entry, largest logit first, int64.
        relative_PE: Raw logits minus maximum_P, float32: so logits far from 0 keep their digits.
        maximum_P: The largest logit of each row, float32.
        inclusion_PE: The probability with which each entry was kept; 1 for a certain entry, 0 for padding.
        num_certain_P: How many entries of each row are certain; they are the first ones.
        num_classes: V.
    """

    ids_PE: Tensor
    relative_PE: Tensor
    maximum_P: Tensor
    inclusion_PE: Tensor
    num_certain_P: Tensor
    num_classes: int

    # What it can be compared with

    knows_every_class = False
    weights_are_whole = True
    draws = False
    knows_entropy = True
    keeps_raw_logits = True
    wide = False
    is_exact = False

    def weighs(self, temperature: float) -> bool:
        """Whether forward KL at T does best with `weights`."""
        return False

    def has_certain(self) -> bool:
        """Whether each row has a certain entry."""
        return True

    def knows_top(self) -> bool:
        """Whether the teacher's likeliest class is sure to be an entry in each row."""
        return True

    @property
    def knows_top_P(self) -> Tensor:
        """Whether the likeliest class of all is sure to be an entry, bool [P]: it is the first certain one, if any."""
        return self.num_certain_P > 0

    @property
    def top_P(self) -> Tensor:
        """The class the teacher finds likeliest of the entries, int64 [P]; of equal ones the first entry."""
        largest_P1 = self.relative_PE.masked_fill(self.inclusion_PE == 0, -torch.inf).argmax(-1, keepdim=True)
        return self.ids_PE.gather(1, largest_P1)[:, 0]

    def with_exact_tail(self) -> "TeacherTargets":
        """The same records with the tail's exact mass as one class, whatever rule a loss uses for it."""
        return self

    # What it answers

    def _tail(self, temperature: float) -> tuple[Tensor, Tensor] | None:
        """(log-partition P, mean P) of the tail's logits, relative to maximum_P; None where no class is in a tail."""
        raise NotImplementedError

    @property
    def num_positions(self) -> int:
        return self.ids_PE.shape[0]

    @property
    def logits_PE(self) -> Tensor:
        """Raw logits of the entries, [P, E]; −inf of classes that are never given."""
        return (self.relative_PE + self.maximum_P[:, None]).masked_fill(is_never(self.relative_PE), -torch.inf)

    def as_kept(self, logits_PV: Tensor) -> Tensor:
        """Of a teacher's rows, the numbers that `logits_PE` would have for all classes if they were not rounded."""
        return logits_PV

    def label_logits(self, labels_P: Tensor) -> Tensor | None:
        """The teacher's raw logit of each label, float32 [P]; None where it is not stored.

        Args:
            labels_P: those that the records were made with, int64; any number for one that is not known.
        """
        return None

    def label_losses(self, labels_P: Tensor) -> Tensor | None:
        """−log p of each label at T = 1, float64 [P], nats; None where it is not stored. labels_P: as above."""
        label_logits_P = self.label_logits(labels_P)
        return None if label_logits_P is None else self.log_partition(1.0).double() - label_logits_P.double()

    def certain_PE(self) -> Tensor:
        """Which entries are certain, bool [P, E]."""
        return torch.arange(self.ids_PE.shape[1], device=self.ids_PE.device) < self.num_certain_P[:, None]

    def _relative_log_partition(self, temperature: float) -> Tensor:
        if not 0 < temperature < math.inf:
            raise ConfigError(f"got temperature {temperature:g}, expected a finite number above 0")
        certain_PE = (self.relative_PE / temperature).masked_fill(~self.certain_PE(), -torch.inf)
        certain_P, tail = certain_PE.logsumexp(-1), self._tail(temperature)
        return certain_P if tail is None else torch.logaddexp(certain_P, tail[0])

    def log_partition(self, temperature: float) -> Tensor:
        """The normaliser of the softmax at a temperature.

        Args:
            temperature: T, above 0.

        Returns:
            log Σ_classes exp(z / T) of the raw logits, [P], nats.

        Raises:
            ConfigError: The records do not answer this temperature.
        """
        return self._relative_log_partition(temperature) + self.maximum_P / temperature

    def log_probs(self, temperature: float) -> Tensor:
        """The log-probabilities of the entries.

        Args:
            temperature: T, above 0.

        Returns:
            log p at T, [P, E]; −inf for padding, −240 for a class that is never given.

        Raises:
            ConfigError: The records do not answer this temperature.
        """
        shift_P1 = temperature * self._relative_log_partition(temperature)[:, None]
        log_probs_PE = (self.relative_PE - shift_P1) / temperature
        return log_probs_PE.masked_fill(self.inclusion_PE == 0, -torch.inf)

    def log_tail_mass(self, temperature: float) -> Tensor:
        """log of the probability outside the certain entries at T, [P]; −inf where nothing is."""
        tail = self._tail(temperature)
        if tail is None:
            return torch.full_like(self.maximum_P, -torch.inf)
        return tail[0] - self._relative_log_partition(temperature)

    def tail_mass(self, temperature: float) -> Tensor:
        """The probability of all classes outside the certain entries.

        Args:
            temperature: T, above 0.

        Returns:
            The tail's mass at T, [P].
        """
        return self.log_tail_mass(temperature).exp()

    def entropy(self, temperature: float) -> Tensor:
        """The entropy of the whole distribution.

        Args:
            temperature: T, above 0.

        Returns:
            −Σ p log p at T, [P], nats; the tail's part is mass · (log Z − mean / T).
        """
        log_probs_PE = self.log_probs(temperature).masked_fill(~self.certain_PE(), 0.0)
        entropy_P = -(log_probs_PE.exp() * log_probs_PE).sum(-1)
        tail = self._tail(temperature)
        if tail is None:
            return entropy_P
        surprise_P = self._relative_log_partition(temperature) - tail[1] / temperature
        return entropy_P + self.tail_mass(temperature) * surprise_P

    def weights(self, temperature: float, estimator: Estimator = "normalised") -> Tensor:
        """The target probabilities that a loss uses.

        Args:
            temperature: T, above 0.
            estimator: "horvitz_thompson" is unbiased at every T, but for the rounding of stored logits: one that it
                moved by δ nats counts exp(δ (1/T − 1/T_proposal)) times what it should. "normalised" scales the sampled
                entries to the tail's exact mass, so that a row sums to 1: it has less noise, and a bias of the order of
                one over the number sampled. With tail "renormalise" the entries' mass is scaled to 1.

        Returns:
            p_i(T) / π_i, [P, E], 0 for padding.

        Raises:
            ConfigError: The estimator is unknown, or the records do not answer this temperature.

        References:
            Horvitz and Thompson 1952, Journal of the American Statistical Association 47.
        """
        self._check_estimator(estimator)
        log_weights_PE = self.log_probs(temperature) - self.inclusion_PE.log().masked_fill(self.inclusion_PE == 0, 0.0)
        return self._weights(log_weights_PE, temperature, estimator)

    def _check_estimator(self, estimator: str) -> None:
        if estimator not in get_args(Estimator):
            raise ConfigError(f"got estimator {estimator!r}, expected one of {', '.join(get_args(Estimator))}")

    def _weights(self, log_weights_PE: Tensor, temperature: float, estimator: Estimator) -> Tensor:
        return log_weights_PE.exp()

    def effective_samples(self, temperature: float) -> Tensor:
        """How many equal draws would be as noisy as the sampled entries are.

        Args:
            temperature: T, above 0.

        Returns:
            (Σw)² / Σw² of the sampled entries at T, [P]; 0 where a tail has no sampled entry to stand for it, infinite
            where there is no tail or a factored one.

        References:
            Kish 1965, Survey Sampling.
        """
        return torch.full_like(self.maximum_P, torch.inf)

    def sampling_variance(self, temperature: float) -> Tensor:
        """Expected ‖w − p‖² of the Horvitz-Thompson weights at T, [P]: the gradient noise that sampling adds.

        Estimated from the record itself, Σ w² (1 − π) over its entries, as if classes were drawn independently
        (systematic sampling does a little better). Not defined for the bias of records without samples: 0 there.
        """
        weights_PE = self.weights(temperature, "horvitz_thompson")
        return (weights_PE**2 * (1.0 - self.inclusion_PE)).sum(-1)

    def coverage(self, temperature: float) -> Tensor:
        """The probability of all entries at T, [P]."""
        return self.log_probs(temperature).exp().sum(-1)

    def squared_norm(self, temperature: float) -> Tensor:
        """Σ p² over all classes at T, [P]: an unbiased estimate from the entries."""
        return (self.weights(temperature, "horvitz_thompson") * self.log_probs(temperature).exp()).sum(-1)

    def dense_log_probs(self, temperature: float) -> Tensor:
        """The log-probabilities of all classes; call it on a chunk of positions.

        In a factored record certain entries are exact, and the others share the tail's exact mass as its coefficients
        say.

        Args:
            temperature: T, above 0.

        Returns:
            log p at T, [P, V].

        Raises:
            ConfigError: The record does not know every class.
        """
        raise self._not_known()

    def dense_probs(self, temperature: float) -> tuple[Tensor, Tensor]:
        """(p of every class at T [P, V], Σ p log p [P]) of the distribution that `dense_log_probs` gives."""
        raise self._not_known()

    def _not_known(self) -> ConfigError:
        return ConfigError(
            "got a sparse record, expected a dense or a factored one: it does not say how the tail is spread; "
            "dump with record.kind factored or dense"
        )

    # Where it is

    def to(self, device: torch.device | str) -> Self:
        """The same distributions on another device."""
        return self._each(lambda tensor: tensor.to(device))

    def __getitem__(self, index: slice | Tensor) -> Self:
        """The records of some positions."""
        return self._each(lambda tensor: tensor[index])

    def _each(self, function: Callable[[Tensor], Tensor]) -> Self:
        """With every tensor of its own, and of its curve, changed so."""
        values = {}
        for field in fields(self):
            value = getattr(self, field.name)
            if isinstance(value, Tensor):
                value = function(value)
            elif isinstance(value, TailCurve):
                value = value.each(function)
            values[field.name] = value
        return type(self)(**values)
