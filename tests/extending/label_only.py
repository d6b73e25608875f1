"""A record kind that keeps the label's probability alone: 8 bytes per position, and what a reader can make of it.

The label is the one certain entry; everything else is one class with its exact mass. It answers the temperatures that
it stores. `module: extending.label_only` in a settings file makes it known.

P positions, T temperatures.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Any, Literal

import numpy as np
import torch
from torch import Tensor

import kdcache

__all__ = ["LabelOnly"]

SMALLEST = 1e-6
"""The least mass that the other classes are given, so that they are never none."""


class LabelOnly(kdcache.RecordKind):
    """The label's log-probability.

    temperatures: at which it is stored.
    """

    kind: Literal["label"] = "label"
    temperatures: tuple[float, ...] = (1.0,)

    def fields(self, num_classes: int, *, width: int | None = None, rank: int | None = None) -> list[kdcache.Field]:
        return [
            kdcache.Field("label_ids", "position", "uint32"),
            kdcache.Field("label_log_probs", "position", "float32", (len(self.temperatures),)),
        ]

    def encode(self, rows: kdcache.TeacherRows, encoder: Any = None) -> dict[str, np.ndarray]:
        logits_PV = rows.logits_PV.float()
        labels_P = rows.labels_on(logits_PV.device)
        log_probs = [(logits_PV / t).log_softmax(-1).gather(1, labels_P[:, None]) for t in self.temperatures]
        return {
            "label_ids": labels_P.cpu().numpy().astype(np.uint32),
            "label_log_probs": torch.cat(log_probs, 1).cpu().numpy(),
        }

    def decode(
        self, arrays: Mapping[str, Tensor], num_classes: int, facts: Mapping[str, int], basis: Any = None
    ) -> "LabelTargets":
        log_p_PT = arrays["label_log_probs"].clamp(max=-SMALLEST)
        log_rest_PT = torch.log(-torch.expm1(log_p_PT)) - log_p_PT  # of the other classes, relative to the label
        ids_P1 = arrays["label_ids"].long()[:, None]
        zeros_P1 = torch.zeros_like(ids_P1, dtype=torch.float32)
        return LabelTargets(
            ids_PE=ids_P1,
            relative_PE=zeros_P1,
            maximum_P=zeros_P1[:, 0],
            inclusion_PE=zeros_P1 + 1,
            num_certain_P=torch.ones_like(ids_P1[:, 0]),
            num_classes=num_classes,
            curve=kdcache.TailCurve(self.temperatures, log_rest_PT, torch.zeros_like(log_rest_PT)),
            relative_label_P=zeros_P1[:, 0],
        )

    def answers(self, temperature: float) -> bool:
        return temperature in self.temperatures


@dataclass(frozen=True)
class LabelTargets(kdcache.SparseTargets):
    """The label need not be the teacher's likeliest class, and the other classes' shares are not known."""

    @property
    def knows_top_P(self) -> Tensor:
        return self.curve.log_partition_PK[:, 0] < 0

    def knows_top(self) -> bool:
        return False

    def entropy(self, temperature: float) -> Tensor:
        raise kdcache.ConfigError("got records of labels alone, which have no entropy, expected another record.kind")


kdcache.register_record("label", LabelOnly)
