"""Blocks of rows to records in plain torch, on any device.

One pass over a block for maxima and normalisers, one for the tail's moments, then a look at the few segments that hold
the draw. All sizes are bounds that follow from the settings, so that the host waits for a device once a block, for the
records. On a GPU with Triton both passes are one kernel each (fused_passes.py), which leaves out masked classes and
counts them. Elsewhere a teacher that masks classes is found out at its first block, which is made again; from then on
masked classes are counted before the tail, and the host waits for that too.

R rows of a block, V classes, K candidates for certain entries, E entries, D draws at most, J inverse temperatures.
"""

from collections.abc import Sequence
from importlib.util import find_spec
from typing import TYPE_CHECKING

import numpy as np
import torch
from torch import Tensor

from kdcache.targets.constants import FLOOR, NEARLY_ONE
from kdcache.targets.host import on_host, to_device
from kdcache.targets.moments import RowPasses, Survey
from kdcache.targets.plan import Plan
from kdcache.targets.sample import draw, largest, order_key
from kdcache.targets.sparse_codec import Block

if TYPE_CHECKING:
    from kdcache.targets.fused_passes import FusedPasses

__all__ = ["Rows"]


class Rows:
    """Makes Blocks of rows on one device."""

    def __init__(self, num_classes: int, plan: Plan, device: torch.device):
        columns = [plan.curve.column(t) for t in plan.proposals]
        self._plan = plan
        self._proposals = tuple(plan.curve.betas[column] for column in columns if column is not None)
        self._betas = to_device(np.array(self._proposals, np.float64), device)
        self._fused = _fused_passes(num_classes, self._proposals, plan.curve.betas, device)
        self._masks = False
        self._passes = self._fused or RowPasses(num_classes, self._proposals, plan.curve.betas, device)
        self.block_bytes = 1 << 23 if device.type == "cpu" else 1 << 29

    def block(self, logits_RV: Tensor, uniform_R: Tensor) -> Block:
        """Records of these rows; where some are not finite none, and their maxima NaN."""
        block, some_masked = self._block(logits_RV, uniform_R)
        if some_masked and not self._masks and self._fused is None:
            self._masks = True
            block, _ = self._block(logits_RV, uniform_R)
        return block

    def _block(self, logits_RV: Tensor, uniform_R: Tensor) -> tuple[Block, bool]:
        """(the records, whether they are wrong where `_masks` is false: some rows have masked classes)."""
        survey = self._passes.survey(logits_RV)
        if self._masks and not survey.finite_R.all():
            return _refused(*on_host(survey.maximum_R, survey.finite_R)), True
        ids_RK, top_RK, num_certain_R = self._certain(logits_RV, survey)
        certain_RK = torch.arange(ids_RK.shape[1], device=ids_RK.device) < num_certain_R[:, None]
        first_R1 = num_certain_R.clamp(max=ids_RK.shape[1] - 1)[:, None]
        tail_top_R, tail_id_R = top_RK.gather(1, first_R1)[:, 0], ids_RK.gather(1, first_R1)[:, 0]
        tail_top_R = torch.maximum(tail_top_R, survey.maximum_R + FLOOR)
        sums_RJ3, mass_JRS, tail_count_R = self._tail(logits_RV, survey, (tail_top_R, tail_id_R), (ids_RK, certain_RK))
        ids_RE, logit_RE, kept_RE = ids_RK, top_RK, certain_RK
        if self._proposals:
            relative_R1 = (tail_top_R - survey.maximum_R).double()[:, None]
            coefficient_RJ = (self._betas * relative_R1 - survey.log_partition_RJ).exp()
            drawn = draw(
                logits_RV,
                mass_JRS,
                self._proposals,
                coefficient_RJ * self._plan.samples / len(self._proposals),
                (tail_top_R, tail_id_R),
                to_device(uniform_R, logits_RV.device),
                self._plan.samples + 2,
            )
            ids_RE, logit_RE, kept_RE = (
                torch.cat(pair, 1) for pair in zip((ids_RE, logit_RE, kept_RE), drawn, strict=True)
            )
        keys_RE = order_key(logit_RE, ids_RE).masked_fill_(~kept_RE, torch.iinfo(torch.int64).min)
        order_RE = keys_RE.argsort(1, descending=True)
        found = on_host(
            survey.maximum_R,
            survey.finite_R,
            (survey.minimum_R < survey.maximum_R + FLOOR).any(),
            num_certain_R,
            kept_RE.sum(1),
            ids_RE.gather(1, order_RE),
            logit_RE.gather(1, order_RE) - survey.maximum_R[:, None],
            tail_top_R - survey.maximum_R,
            tail_count_R,
            sums_RJ3,
        )
        maximum_R, finite_R, masked, num_certain, counts_R, ids, relative, *of_tail = found
        if not finite_R.all():
            return _refused(maximum_R, finite_R), False
        kept = np.arange(ids.shape[1]) < counts_R[:, None]
        return Block(maximum_R, num_certain, counts_R, ids[kept], relative[kept], *of_tail), bool(masked)

    def _tail(
        self, logits_RV: Tensor, survey: Survey, first_R2: tuple[Tensor, Tensor], certain_RK2: tuple[Tensor, Tensor]
    ) -> tuple[Tensor, Tensor, Tensor]:
        """(sums RJ3, masses JRS, how many classes R) of the tail, which begins with a class of this logit and id."""
        floor_R = survey.maximum_R + FLOOR
        if self._fused is not None:
            return self._fused.tail_sums(logits_RV, *first_R2, floor_R)
        count_R = logits_RV.shape[1] - certain_RK2[1].sum(1)
        if self._masks:
            certain_RK2, count_R = _with_masked(logits_RV, floor_R, *certain_RK2)
        passes = self._passes
        assert isinstance(passes, RowPasses)
        return *passes.tail_sums(logits_RV, first_R2[0], *certain_RK2), count_R

    def _certain(self, logits_RV: Tensor, survey: Survey) -> tuple[Tensor, Tensor, Tensor]:
        """(ids RK, logits RK, number of certain entries R): the first so many of each row, then the tail's largest."""
        top_k, samples = self._plan.exact_top_k, self._plan.samples
        K = min(max(top_k, samples), logits_RV.shape[1])
        ids_RK, top_RK = largest(logits_RV, survey.segment_max_RS, K + 1, K + 1)
        certain_RK = (torch.arange(ids_RK.shape[1], device=ids_RK.device) < top_k).expand(ids_RK.shape)
        exists_RK = ids_RK < logits_RV.shape[1]
        if self._proposals:
            scaled_RKJ = (top_RK - survey.maximum_R[:, None]).double()[:, :, None] * self._betas
            weight_RK = (scaled_RKJ - survey.log_partition_RJ[:, None]).exp().mean(-1)
            certain_RK = certain_RK | (samples * weight_RK >= NEARLY_ONE)
        return ids_RK, top_RK, (certain_RK & exists_RK).sum(1).clamp(max=K)


def _with_masked(
    logits_RV: Tensor, floor_R: Tensor, ids_RK: Tensor, certain_RK: Tensor
) -> tuple[tuple[Tensor, Tensor], Tensor]:
    """The certain entries and the masked classes together, as (ids, which of them); how many classes are neither."""
    masked_RV = logits_RV < floor_R[:, None]
    masked_RV[certain_RK.nonzero()[:, 0], ids_RK[certain_RK]] = True
    count_R = masked_RV.sum(1)
    ids_RM = masked_RV.byte().argsort(dim=1, descending=True)[:, : int(count_R.max())]
    return (ids_RM, masked_RV.gather(1, ids_RM)), logits_RV.shape[1] - count_R


def _refused(maximum_R: np.ndarray, finite_R: np.ndarray) -> Block:
    """A block without records, whose rows that are not finite have the maximum NaN."""
    none = np.zeros(0)
    return Block(np.where(finite_R, maximum_R, np.float32(np.nan)), none, none, none, none, none, none, none)


def _fused_passes(
    num_classes: int, proposals: Sequence[float], betas: Sequence[float], device: torch.device
) -> "FusedPasses | None":
    """None on a CPU, and without Triton."""
    if device.type != "cuda" or find_spec("triton") is None:
        return None
    from kdcache.targets.fused_passes import FusedPasses

    return FusedPasses(num_classes, proposals, betas)
