"""DistillKit's record, to compare with: the k largest log-probabilities, most of them on a fitted polynomial.

By the scheme that its README documents (github.com/arcee-ai/DistillKit): the ids of the k largest bit-packed, the
log-probabilities of the first few as bfloat16, those of the rest as float32 coefficients of some terms of their rank,
fitted by least squares. A loss divides what is kept by its sum ("zero"), or takes the rest as one class ("uniform").
The two profiles are the ones that the README recommends, for new caches and where space is short. Here the same numbers
go into a shard of kdcache, whose codec makes them no larger.

P positions, V classes, k entries.
"""

from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kdcache.targets.curve import TailCurve
from kdcache.targets.fields import Field, class_dtype
from kdcache.targets.record import TeacherTargets
from kdcache.targets.sparse_targets import SparseTargets

__all__ = ["PROFILES", "Polynomial"]


@dataclass(frozen=True)
class Polynomial:
    """exact: how many of the k are stored as they are. powers: of the rank, one for each term."""

    k: int
    exact: int
    powers: tuple[float, ...]

    def documented_bytes(self, num_classes: int) -> float:
        """Per position."""
        return -(-self.k * (num_classes - 1).bit_length() // 8) + 2 * self.exact + 4 * len(self.powers)

    def fields(self, num_classes: int) -> list[Field]:
        return [
            Field("ids", "position", class_dtype(num_classes), (self.k,)),
            Field("exact", "position", "uint16", (self.exact,)),
            Field("coefficients", "position", "float32", (len(self.powers),)),
        ]

    def made(
        self, logits_PV: Tensor, tail: Literal["ghost", "renormalise"]
    ) -> tuple[dict[str, np.ndarray], TeacherTargets]:
        """What is stored, and what a loss at T = 1 gets of it."""
        log_p_Pk, ids_Pk = logits_PV.log_softmax(-1).topk(self.k)
        rank_k = torch.arange(self.k - self.exact, dtype=torch.float64)
        terms_kT = torch.stack([rank_k**power for power in self.powers], -1)
        rest_kP = log_p_Pk[:, self.exact :].double().T
        coefficients_PT = torch.linalg.lstsq(terms_kT, rest_kP).solution.T.float()
        exact_P = log_p_Pk[:, : self.exact].bfloat16()
        read_Pk = torch.cat([exact_P.float(), coefficients_PT @ terms_kT.float().T], -1)
        arrays = {
            "ids": ids_Pk.numpy().astype(class_dtype(logits_PV.shape[1])),
            "exact": exact_P.view(torch.int16).numpy().view(np.uint16),
            "coefficients": coefficients_PT.numpy(),
        }
        return arrays, _targets(ids_Pk, read_Pk, logits_PV.shape[1], tail)


def _targets(
    ids_Pk: Tensor, log_p_Pk: Tensor, num_classes: int, tail: Literal["ghost", "renormalise"]
) -> TeacherTargets:
    P, k = ids_Pk.shape
    rest_P1 = (1 - log_p_Pk.exp().sum(-1, keepdim=True)).clamp(min=1e-6)
    return SparseTargets(
        ids_PE=ids_Pk,
        relative_PE=log_p_Pk,
        maximum_P=torch.zeros(P),
        inclusion_PE=torch.ones_like(log_p_Pk),
        num_certain_P=torch.full((P,), k),
        num_classes=num_classes,
        curve=TailCurve((1.0,), rest_P1.log(), torch.zeros(P, 1)),
        tail=tail,
    )


PROFILES = {
    "recommended": Polynomial(128, 16, (0, 1, 2, 3, 4, 0.5)),
    "budget": Polynomial(50, 1, (0, 1, 0.5)),
}
