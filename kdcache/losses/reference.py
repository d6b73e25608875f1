"""Reference: the teacher's side of a divergence at one temperature, on the classes where it is known.

Seven forms:
  whole        every class, from a dense or a factored record: divergences are exact for the former, and for the latter
               those of the distribution that it stands for
  expected     the same for forward KL: all it needs of log q is its mean under p, one number per position, and so few
               passes over the classes
  coarse       the certain entries, and everything else as one class with the exact tail mass. Merging classes can only
               lose information, so an f-divergence is a lower bound of the full one, tight where student and teacher
               spread their tails alike. Classes outside the entries that the teacher never gives are such a class too,
               of probability 0: what the student puts there counts
  weights      (named by their estimator) entries with weights, and no class for the rest: forward KL of a sample, or
               of a top-k record renormalised to 1
  one_hot      the likeliest entry alone, as at a vanishing temperature; forward KL
  labels       the label alone, in the teacher's place
  entropy      no class at all, only how sure the teacher is: entropy.py

P positions, E entries (padded), V classes, C compared classes: the entries, then the rest as one where it is a class.
"""

from dataclasses import dataclass
from functools import cached_property
from typing import Literal, cast

import torch
from torch import Tensor

from kdcache.errors import ConfigError
from kdcache.losses.divergence import Divergence
from kdcache.losses.entropy import teacher_entropy
from kdcache.losses.supervision import Supervision
from kdcache.targets.never import LOG_NEVER
from kdcache.targets.record import Estimator, TeacherTargets
from kdcache.targets.whole import dot

__all__ = ["WIDE", "Form", "Pair", "Reference", "form_of"]

Form = Literal["whole", "expected", "coarse", "normalised", "horvitz_thompson", "one_hot", "labels", "entropy"]
WIDE = ("whole", "expected")
"""Forms as wide as the logits: made for one block of rows at a time."""


@dataclass(frozen=True)
class Reference:
    """ids_PE: class of each entry, None = the classes in order (E = V). Padding repeats the row's first class.

    padding_PC: True for padding; None where there is none. log_p_PC, p_PC: of the target; in padding numbers without a
    meaning. tail: the last column is the rest. negative_entropy_P: of weights and entropies alone, the Σ p log p that
    goes with them: of the teacher's whole distribution but where weights are renormalised. mixture_PV: where given,
    the one column is the mean under these probabilities.
    """

    ids_PE: Tensor | None
    padding_PC: Tensor | None
    log_p_PC: Tensor
    p_PC: Tensor
    negative_entropy_P: Tensor | None = None
    tail: bool = False
    mixture_PV: Tensor | None = None

    @classmethod
    def of(cls, targets: TeacherTargets, temperature: float, form: Form, dtype: torch.dtype) -> "Reference":
        if form == "whole":
            log_p_PV = targets.dense_log_probs(temperature).to(dtype)
            return cls(None, None, log_p_PV, log_p_PV.exp())
        if form == "expected":
            p_PV, negative_entropy_P = targets.dense_probs(temperature)
            ones_P1 = p_PV.new_ones(len(p_PV), 1, dtype=dtype)
            return cls(None, None, ones_P1 - 1, ones_P1, negative_entropy_P.to(dtype), mixture_PV=p_PV.to(dtype))
        if form == "one_hot":
            return cls.one_hot(targets.top_P, dtype)
        if form == "coarse":
            return cls._coarse(targets, temperature, dtype)
        padding_PE = targets.inclusion_PE == 0
        p_PE = targets.weights(temperature, cast(Estimator, form)).to(dtype)
        whole = targets.weights_are_whole and targets.knows_entropy
        negative_entropy_P = -targets.entropy(temperature).to(dtype) if whole else torch.xlogy(p_PE, p_PE).sum(-1)
        log_p_PE = p_PE.clamp(min=torch.finfo(dtype).tiny).log()
        return cls(_ids(targets, padding_PE), padding_PE, log_p_PE, p_PE, negative_entropy_P)

    @classmethod
    def of_supervision(
        cls, supervision: Supervision, temperature: float, form: Form, dtype: torch.dtype, rows: int
    ) -> "Reference":
        """rows: of wide records, that an entropy is made of at one time."""
        if form == "labels":
            return cls.one_hot(supervision.labels_P, dtype)
        assert supervision.targets is not None
        if form == "entropy":
            return cls.of_entropy(teacher_entropy(supervision.targets, temperature, rows), dtype)
        return cls.of(supervision.targets, temperature, form, dtype)

    @classmethod
    def one_hot(cls, classes_P: Tensor, dtype: torch.dtype) -> "Reference":
        """Of one class each; a class below 0 is none, and all padding."""
        missing_P1 = classes_P[:, None] < 0
        return cls(
            classes_P[:, None].clamp(min=0),
            missing_P1,
            torch.zeros_like(missing_P1, dtype=dtype),
            (~missing_P1).to(dtype),
        )

    @classmethod
    def of_entropy(cls, entropy_P: Tensor, dtype: torch.dtype) -> "Reference":
        """Its compared classes are all the student's; of the teacher's it has none."""
        none_P0 = entropy_P.new_empty(len(entropy_P), 0, dtype=dtype)
        return cls(None, None, none_P0, none_P0, -entropy_P.to(dtype))

    @classmethod
    def _coarse(cls, targets: TeacherTargets, temperature: float, dtype: torch.dtype) -> "Reference":
        log_tail_P1 = targets.log_tail_mass(temperature)[:, None]
        log_tail_P1 = log_tail_P1.masked_fill(log_tail_P1 == -torch.inf, LOG_NEVER)
        all_entries_P1 = targets.num_certain_P[:, None] == targets.num_classes
        padding_PC = torch.cat([~targets.certain_PE(), all_entries_P1], 1)
        log_p_PC = torch.cat([targets.log_probs(temperature), log_tail_P1], 1).to(dtype)
        log_p_PC = log_p_PC.masked_fill(padding_PC, 0.0)
        p_PC = log_p_PC.exp().masked_fill_(padding_PC, 0.0)
        return cls(_ids(targets, padding_PC[:, :-1]), padding_PC, log_p_PC, p_PC, tail=True)

    def __getitem__(self, rows: slice) -> "Reference":
        return Reference(
            None if self.ids_PE is None else self.ids_PE[rows],
            None if self.padding_PC is None else self.padding_PC[rows],
            self.log_p_PC[rows],
            self.p_PC[rows],
            None if self.negative_entropy_P is None else self.negative_entropy_P[rows],
            self.tail,
            None if self.mixture_PV is None else self.mixture_PV[rows],
        )

    @property
    def names_a_class_P(self) -> Tensor:
        """Whether anything says which classes are likely, bool [P]: not for a missing label or an entropy alone."""
        return self.p_PC.sum(-1) > 0

    def entries_of(self, values_PV: Tensor) -> Tensor:
        """The entries' columns of these rows, [P, E]."""
        if self.mixture_PV is not None:
            return dot(self.mixture_PV, values_PV)[:, None]
        return values_PV if self.ids_PE is None else values_PV.gather(1, self.ids_PE)

    def compare(self, log_q_PC: Tensor) -> "Pair":
        return Pair(self, log_q_PC if self.padding_PC is None else log_q_PC.masked_fill(self.padding_PC, 0.0))


@dataclass(frozen=True)
class Pair:
    """Teacher p and student q on the same classes; `masked` takes out of a divergence's result what is of padding."""

    reference: Reference
    log_q_PC: Tensor

    @property
    def log_p_PC(self) -> Tensor:
        return self.reference.log_p_PC

    @property
    def p_PC(self) -> Tensor:
        return self.reference.p_PC

    @cached_property
    def q_PC(self) -> Tensor:
        return self.log_q_PC.exp()

    @cached_property
    def q_log_q_PC(self) -> Tensor:
        return self.q_PC * self.log_q_PC

    @property
    def smallest(self) -> float:
        """The smallest normal number of the dtype: what a logarithm's argument may be clamped to."""
        return torch.finfo(self.log_q_PC.dtype).tiny

    def masked(self, values_PC: Tensor) -> Tensor:
        """The values of the compared classes with 0 for padding."""
        padding_PC = self.reference.padding_PC
        return values_PC if padding_PC is None else values_PC.masked_fill(padding_PC, 0.0)


def form_of(targets: TeacherTargets, divergence: Divergence, estimator: Estimator, temperature: float | None) -> Form:
    """How a divergence compares with these records at T, None for the one-hot limit.

    Raises ConfigError where it cannot.
    The records say whether their weights serve best at T, whether they know every class, and whether all but their
    certain entries can be one class.
    """
    if temperature is None:
        if not targets.knows_top():
            raise ConfigError(
                "got temperature 1 of temperature_schedule article on records that may lack the teacher's likeliest "
                "class, expected it in each: dump with record.exact_top_k of 1 or more"
            )
        return "one_hot"
    if divergence.weighable and targets.weighs(temperature):
        return estimator
    if targets.knows_every_class:
        return "expected" if divergence.weighable else "whole"
    if divergence.cannot_merge is not None:
        raise ConfigError(
            f"got kind {divergence.kind} with {divergence.cannot_merge} on sparse records, expected one "
            "whose meaning stays when classes are merged: take other parameters or another kind, or dump with "
            "record.kind factored or dense"
        )
    if not targets.has_certain():
        raise ConfigError(
            f"got kind {divergence.kind} on records without a certain entry, expected at least one in each: all their "
            "classes would be one; use forward_kl, or dump with record.exact_top_k of 1 or more"
        )
    return "coarse"


def _ids(targets: TeacherTargets, padding_PE: Tensor) -> Tensor:
    return torch.where(padding_PE, targets.ids_PE[:, :1], targets.ids_PE)
