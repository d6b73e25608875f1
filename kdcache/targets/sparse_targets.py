"""SparseTargets: some entries of each distribution, and the tail's mass at any temperature that the curve answers.

P positions, E entries (padded).
"""

from dataclasses import dataclass, replace
from typing import Literal

import torch
from torch import Tensor

from kdcache.targets.curve import TailCurve
from kdcache.targets.record import Estimator, TeacherTargets

__all__ = ["SparseTargets"]


@dataclass(frozen=True)
class SparseTargets(TeacherTargets):
    """curve: the tail's moments, of logits relative to maximum_P too.

    tail: what stands for the classes that are not certain entries: "sampled", the other entries; "ghost", one extra
    class with their exact mass; "renormalise", nothing; "factored", what FactoredTargets knows of them.
    relative_label_P: the label's logit minus maximum_P, where it is stored. some_without_tail: whether a row may have
    no tail, known without asking the device. each_has_certain: whether each row has a certain entry, likewise; None:
    the device is asked.
    """

    curve: TailCurve
    tail: Literal["sampled", "ghost", "renormalise", "factored"] = "ghost"
    relative_label_P: Tensor | None = None
    some_without_tail: bool = False
    each_has_certain: bool | None = None

    @property
    def weights_are_whole(self) -> bool:  # type: ignore[override]
        return self.tail != "renormalise"

    @property
    def draws(self) -> bool:  # type: ignore[override]
        return self.tail == "sampled"

    def weighs(self, temperature: float) -> bool:
        return self.tail in ("sampled", "renormalise")

    def has_certain(self) -> bool:
        """Only a sample can lack certain entries."""
        if self.draws and self.each_has_certain is None:
            return not bool((self.num_certain_P == 0).any())
        return not self.draws or bool(self.each_has_certain)

    def knows_top(self) -> bool:
        return self.has_certain()

    def with_exact_tail(self) -> TeacherTargets:
        return replace(self, tail="ghost") if self.tail == "renormalise" else self

    def label_logits(self, labels_P: Tensor) -> Tensor | None:
        return None if self.relative_label_P is None else self.maximum_P + self.relative_label_P

    def _tail(self, temperature: float) -> tuple[Tensor, Tensor]:
        return self.curve.at(temperature)

    def _weights(self, log_weights_PE: Tensor, temperature: float, estimator: Estimator) -> Tensor:
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
        if self.tail == "factored":
            return super().effective_samples(temperature)
        sampled_PE = (self.inclusion_PE > 0) & ~self.certain_PE()
        log_weights_PE = self.log_probs(temperature) - self.inclusion_PE.log()
        shares_PE = log_weights_PE.masked_fill(~sampled_PE, -torch.inf)
        shares_PE = (shares_PE - shares_PE.amax(-1, keepdim=True).clamp(min=-1e30)).exp()
        effective_P = shares_PE.sum(-1) ** 2 / (shares_PE**2).sum(-1).clamp(min=1e-30)
        return effective_P.masked_fill(self.curve.empty_P, torch.inf)
