"""Blocks of rows to records in plain torch, on any device.

One pass over a block for maxima and normalisers, one for the tail's moments, then a look at the few segments that hold
the draw.

R rows of a block, V classes, K candidates for certain entries, E entries, J inverse temperatures.
"""

import math

import numpy as np
import torch
from torch import Tensor

from kdcache.targets.constants import FLOOR, NEARLY_ONE
from kdcache.targets.moments import RowPasses, Survey
from kdcache.targets.plan import Plan
from kdcache.targets.sample import draw, largest, order_key
from kdcache.targets.sparse_codec import Block

__all__ = ["Rows"]


class Rows:
    """Makes Blocks of rows on one device."""

    def __init__(self, num_classes: int, plan: Plan, device: torch.device):
        columns = [plan.curve.column(t) for t in plan.proposals]
        self._plan = plan
        self._proposals = tuple(plan.curve.betas[column] for column in columns if column is not None)
        self._passes = RowPasses(num_classes, self._proposals, plan.curve.betas, device)
        self.block_bytes = 1 << 23 if device.type == "cpu" else 1 << 29

    def block(self, logits_RV: Tensor, uniform_R: Tensor) -> Block:
        survey = self._passes.survey(logits_RV)
        if not survey.finite_R.all():
            return _refused(survey)
        ids_RK, top_RK, num_certain_R = self._certain(logits_RV, survey)
        certain_RK = torch.arange(ids_RK.shape[1], device=ids_RK.device) < num_certain_R[:, None]
        first_R1 = num_certain_R.clamp(max=ids_RK.shape[1] - 1)[:, None]
        tail_top_R, tail_id_R = top_RK.gather(1, first_R1)[:, 0], ids_RK.gather(1, first_R1)[:, 0]
        tail_top_R = torch.maximum(tail_top_R, survey.maximum_R + FLOOR)
        tail_count_R = logits_RV.shape[1] - num_certain_R
        left_out = ids_RK, certain_RK
        if bool((survey.minimum_R < survey.maximum_R + FLOOR).any()):
            left_out, tail_count_R = _with_masked(logits_RV, survey.maximum_R + FLOOR, ids_RK, certain_RK)
        sums_RJ3, mass_JRS = self._passes.tail_sums(logits_RV, tail_top_R, *left_out)
        row_E, id_E, logit_E = certain_RK.nonzero()[:, 0], ids_RK[certain_RK], top_RK[certain_RK]
        if self._proposals:
            betas = torch.tensor(self._proposals, dtype=torch.float64, device=logits_RV.device)
            relative_R1 = (tail_top_R - survey.maximum_R).double()[:, None]
            coefficient_RJ = (betas * relative_R1 - survey.log_partition_RJ).exp() * self._plan.samples / len(betas)
            drawn = draw(
                logits_RV,
                mass_JRS,
                self._proposals,
                coefficient_RJ,
                (tail_top_R, tail_id_R),
                uniform_R.to(logits_RV.device),
            )
            row_E, id_E, logit_E = (torch.cat(pair) for pair in zip((row_E, id_E, logit_E), drawn, strict=True))
        by_logit = order_key(logit_E, id_E).argsort(descending=True)
        order_E = by_logit[row_E[by_logit].argsort(stable=True)]
        relative_E = logit_E[order_E] - survey.maximum_R[row_E[order_E]]
        return Block(
            maximum_R=survey.maximum_R.cpu().numpy(),
            num_certain_R=num_certain_R.cpu().numpy(),
            counts_R=row_E.bincount(minlength=len(logits_RV)).cpu().numpy(),
            ids_E=id_E[order_E].cpu().numpy(),
            relative_E=relative_E.cpu().numpy(),
            tail_top_R=(tail_top_R - survey.maximum_R).cpu().numpy(),
            tail_count_R=tail_count_R.cpu().numpy(),
            sums_RJ3=sums_RJ3.cpu().numpy(),
        )

    def _certain(self, logits_RV: Tensor, survey: Survey) -> tuple[Tensor, Tensor, Tensor]:
        """(ids RK, logits RK, number of certain entries R): the first so many of each row, then the tail's largest."""
        top_k, samples = self._plan.exact_top_k, self._plan.samples
        K = min(max(top_k, samples), logits_RV.shape[1])
        ids_RK, top_RK = largest(logits_RV, survey.segment_max_RS, K + 1, self._num_segments(survey))
        certain_RK = (torch.arange(ids_RK.shape[1], device=ids_RK.device) < top_k).expand(ids_RK.shape)
        exists_RK = ids_RK < logits_RV.shape[1]
        if self._proposals:
            betas = torch.tensor(self._proposals, dtype=torch.float64, device=ids_RK.device)
            scaled_RKJ = (top_RK - survey.maximum_R[:, None]).double()[:, :, None] * betas
            weight_RK = (scaled_RKJ - survey.log_partition_RJ[:, None]).exp().mean(-1)
            certain_RK = certain_RK | (samples * weight_RK >= NEARLY_ONE)
        return ids_RK, top_RK, (certain_RK & exists_RK).sum(1).clamp(max=K)

    def _num_segments(self, survey: Survey) -> int:
        """Enough segments for the certain entries of every row and the first class after them.

        A class is certain by its weight only where N exp(β z) ≥ Z(β) for some proposal.
        """
        if not self._proposals:
            return self._plan.exact_top_k + 1
        betas = torch.tensor(self._proposals, device=survey.maximum_R.device)
        threshold_R = ((survey.log_partition_RJ - math.log(self._plan.samples)) / betas).amin(1).float() - 0.01
        reach_RS = survey.segment_max_RS >= (survey.maximum_R + threshold_R)[:, None]
        return max(self._plan.exact_top_k, int(reach_RS.sum(1).max())) + 1


def _with_masked(
    logits_RV: Tensor, floor_R: Tensor, ids_RK: Tensor, certain_RK: Tensor
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The certain entries and the masked classes together, as (ids, which of them); how many classes are neither."""
    masked_RV = logits_RV < floor_R[:, None]
    masked_RV[certain_RK.nonzero()[:, 0], ids_RK[certain_RK]] = True
    count_R = masked_RV.sum(1)
    ids_RM = masked_RV.byte().argsort(dim=1, descending=True)[:, : int(count_R.max())]
    return (ids_RM, masked_RV.gather(1, ids_RM)), logits_RV.shape[1] - count_R


def _refused(survey: Survey) -> Block:
    """A block without records, whose rows that are not finite have the maximum NaN."""
    maximum_R = survey.maximum_R.masked_fill(~survey.finite_R, torch.nan).cpu().numpy()
    none = np.zeros(0)
    return Block(maximum_R, none, none, none, none, none, none, none)
