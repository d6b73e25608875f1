"""Sums: held-out measures over positions, additive over batches and ranks.

  labelled            whether it has a label: what the means of label_nll, teacher_label_nll and accuracy are over
  label_nll           −log q(label) of the student at T = 1
  teacher_label_nll   the same of the teacher, 240 at most; NaN where the cache does not hold it, or no curve at T = 1
  kl                  KL(teacher ‖ student) at T: exact for dense records, of the weights for a sample, on the
                      coarsened partition for top-k records, whatever tail rule a loss uses; NaN of drawn records
                      that do not keep the entropy
  ranked              whether the teacher's likeliest class is known: what the mean of agreement is over
  agreement           the student's likeliest class is the teacher's
  accuracy            the student's likeliest class is the label

They are of the student's whole softmax, columns above the teacher's classes included, as the saved model has it.

P positions, V columns, D hidden width.
"""

import math
from dataclasses import KW_ONLY, dataclass
from typing import ClassVar

import torch
from torch import Tensor

from kdcache.errors import ConfigError
from kdcache.losses.distillation import distillation_loss
from kdcache.losses.fused import head_logits
from kdcache.losses.supervision import Supervision
from kdcache.targets.fields import NO_LABEL
from kdcache.targets.never import LOG_NEVER
from kdcache.targets.output_layer import PLAIN, PostFunction

__all__ = ["FusedSums", "Sums", "measure"]

_OF_LABELS = ("label_nll", "teacher_label_nll", "accuracy")


@dataclass(frozen=True)
class Sums:
    """vector: float64 [len(names)]; one all-reduce adds the ranks', and Sums(vector) wraps it again."""

    vector: Tensor
    names: ClassVar[tuple[str, ...]] = (
        "positions",
        "labelled",
        "ranked",
        "label_nll",
        "teacher_label_nll",
        "kl",
        "agreement",
        "accuracy",
    )

    @property
    def are_numbers(self) -> bool:
        """Whether what the student says of the labels is; what is not known of the teacher is NaN."""
        values = dict(zip(self.names, self.vector.tolist(), strict=True))
        return not (values["labelled"] and math.isnan(values["label_nll"]))

    @classmethod
    def of_positions(cls, outputs_PK: Tensor) -> "Sums":
        """The number of positions alone: outputs that are no logits have no other measure here."""
        vector = torch.full((len(cls.names),), torch.nan, dtype=torch.float64, device=outputs_PK.device)
        vector[:3] = 0
        vector[0] = len(outputs_PK)
        return cls(vector)

    def __add__(self, other: "Sums") -> "Sums":
        return Sums(self.vector + other.vector)

    def means(self) -> dict[str, float]:
        """positions (their number), labelled where not all are, and the mean of each measure that the cache allows."""
        positions, labelled, ranked, *sums = self.vector.tolist()
        counts = {"positions": positions} | ({"labelled": labelled} if labelled != positions else {})
        over = dict.fromkeys(_OF_LABELS, labelled) | {"agreement": ranked}
        named = zip(self.names[3:], sums, strict=True)
        each = ((name, value, over.get(name, positions)) for name, value in named)
        return counts | {name: value / count for name, value, count in each if count and not math.isnan(value)}


@torch.no_grad()
def measure(logits_PV: Tensor, supervision: Supervision, *, temperature: float = 1.0, chunk: int = 1024) -> Sums:
    """Sums of logits that exist."""
    vector = _zeros(logits_PV)
    for start in range(0, len(logits_PV), chunk):
        rows = slice(start, start + chunk)
        vector += _measure(logits_PV[rows].float(), supervision[rows], temperature)
    return Sums(vector)


@dataclass(frozen=True)
class FusedSums:
    """Task of a WideLinear: the vector of Sums, chunk by chunk of positions, without gradients."""

    supervision: Supervision
    _: KW_ONLY
    temperature: float = 1.0
    chunk: int = 1024

    @torch.no_grad()
    def __call__(
        self, hidden_PD: Tensor, weight_VD: Tensor, bias_V: Tensor | None = None, post: PostFunction = PLAIN
    ) -> Tensor:
        vector = _zeros(hidden_PD)
        weight_VD = weight_VD.to(hidden_PD.dtype)
        buffer_PV = hidden_PD.new_empty(min(self.chunk, len(hidden_PD)), len(weight_VD), dtype=torch.float32)
        for start in range(0, len(hidden_PD), self.chunk):
            rows = slice(start, start + self.chunk)
            chunk_PD = hidden_PD[rows]
            logits_PV = head_logits(chunk_PD, weight_VD, bias_V, out=buffer_PV[: len(chunk_PD)])
            vector += _measure(post.apply_(logits_PV), self.supervision[rows], self.temperature)
        return vector


def _zeros(like: Tensor) -> Tensor:
    return torch.zeros(len(Sums.names), dtype=torch.float64, device=like.device)


def _measure(logits_PV: Tensor, supervision: Supervision, temperature: float) -> Tensor:
    labels_P, targets = supervision.labels_P, supervision.targets
    top_P = logits_PV.argmax(-1)
    unknown_P = torch.full_like(logits_PV[:, 0], torch.nan)
    kl_P = agreement_P = ranked_P = unknown_P
    if targets is not None:
        whole = targets.with_exact_tail()
        if whole.knows_entropy:
            kl_P = distillation_loss(
                logits_PV, whole, temperature=temperature, temperature_squared=False, reduction="none"
            )
        ranked_P = targets.knows_top_P
        agreement_P = ranked_P & (top_P == targets.top_P)
    measures = (
        torch.ones_like(unknown_P),
        labels_P >= 0,
        ranked_P,
        torch.nn.functional.cross_entropy(logits_PV, labels_P, reduction="none", ignore_index=NO_LABEL),
        _teacher_label_nll(supervision, unknown_P),
        kl_P,
        agreement_P,
        top_P == labels_P,
    )
    return torch.stack([measure_P.sum(dtype=torch.float64) for measure_P in measures])


def _teacher_label_nll(supervision: Supervision, unknown_P: Tensor) -> Tensor:
    targets = supervision.targets
    label_logits_P = None if targets is None else targets.label_logits(supervision.labels_P)
    if targets is None or label_logits_P is None:
        return unknown_P
    try:
        nll_P = targets.log_partition(1.0) - label_logits_P
    except ConfigError:  # a cache without the curve at T = 1
        return unknown_P
    return nll_P.clamp(max=-LOG_NEVER).where(supervision.labels_P >= 0, 0.0)
