"""The two passes of compress over a block of rows (moments.py) as Triton kernels, which read each logit twice in all.

Plain torch writes and reads a block about forty times: 7.4 ms for 2048 rows of 49,152 classes on an H200, where these
take 0.3. A program sums 2048 classes in float32, in an order that depends on nothing else; their sums are added in
float64. Which classes are the tail follows from logit and id alone: those after the tail's first one in order, down to
the floor of masked classes, which are left out and counted here, so that no block is made twice.

R rows of a block, V classes, B programs of a row, S segments, J inverse temperatures.
"""

from collections.abc import Sequence

import torch
import triton
import triton.language as tl
from torch import Tensor

from kdcache.targets.constants import SEGMENT
from kdcache.targets.moments import Survey

__all__ = ["FusedPasses"]

_SEGMENTS = 32
"""Of a program: 2048 classes."""


class FusedPasses:
    """proposals: inverse temperatures of the normalisers. betas: inverse temperatures of the tail's sums, ascending."""

    def __init__(self, num_classes: int, proposals: Sequence[float], betas: Sequence[float]) -> None:
        self.num_classes, self.proposals, self.betas = num_classes, tuple(proposals), tuple(betas)
        self._programs = -(-num_classes // (_SEGMENTS * SEGMENT))
        self._num_segments = -(-num_classes // SEGMENT)

    def survey(self, logits_RV: Tensor) -> Survey:
        """Extremes and normalisers of each row."""
        R, B, J, device = len(logits_RV), self._programs, len(self.proposals), logits_RV.device
        segment_max_RS = torch.empty(R, B * _SEGMENTS, device=device)
        minimum_RB, top_RB = (torch.empty(R, B, device=device) for _ in range(2))
        sums_RBJ = torch.empty(R, B, max(J, 1), device=device)
        _survey[(R, B)](
            logits_RV, logits_RV.stride(0), self.num_classes, segment_max_RS, minimum_RB, top_RB, sums_RBJ,
            PROPOSALS=self.proposals, SEGMENTS=_SEGMENTS, SEGMENT=SEGMENT,
        )  # fmt: skip
        maximum_R = top_RB.amax(1)
        log_partition_RJ = logits_RV.new_empty(R, 0, dtype=torch.float64)
        if J:
            parts = [
                (((top_RB - maximum_R[:, None]) * beta).double().exp() * sums_RBJ[:, :, j]).sum(1).log()
                for j, beta in enumerate(self.proposals)
            ]
            log_partition_RJ = torch.stack(parts, 1)
        return Survey(maximum_R, minimum_RB.amin(1), segment_max_RS[:, : self._num_segments], log_partition_RJ)

    def tail_sums(
        self, logits_RV: Tensor, top_R: Tensor, id_R: Tensor, floor_R: Tensor
    ) -> tuple[Tensor, Tensor, Tensor]:
        """As RowPasses.tail_sums, of the classes from (top, id) on in order and not below the floor; and their number.

        Returns: float64 [R, J, 3], float32 [proposals, R, S], int64 [R].
        """
        R, B, J, device = len(logits_RV), self._programs, len(self.betas), logits_RV.device
        sums_RBJ3 = torch.empty(R, B, J, 3, device=device)
        mass_JRS = torch.empty(max(len(self.proposals), 1), R, B * _SEGMENTS, device=device)
        count_RB = torch.empty(R, B, dtype=torch.int32, device=device)
        _tail_sums[(R, B)](
            logits_RV, logits_RV.stride(0), self.num_classes, top_R, id_R, floor_R, sums_RBJ3, mass_JRS,
            R * B * _SEGMENTS, count_RB, BETAS=self.betas, PROPOSALS=self.proposals, SEGMENTS=_SEGMENTS,
            SEGMENT=SEGMENT,
        )  # fmt: skip
        mass_JRS = mass_JRS[: len(self.proposals), :, : self._num_segments]
        return sums_RBJ3.double().sum(1), mass_JRS.contiguous(), count_RB.sum(1)


@triton.jit
def _survey(
    logits, stride, V, segment_max, minimum, top, sums,
    PROPOSALS: tl.constexpr, SEGMENTS: tl.constexpr, SEGMENT: tl.constexpr,
):  # fmt: skip
    row, program = tl.program_id(0).to(tl.int64), tl.program_id(1)
    programs = tl.num_programs(1)
    segments = program * SEGMENTS + tl.arange(0, SEGMENTS)
    ids = segments[:, None] * SEGMENT + tl.arange(0, SEGMENT)[None, :]
    there = ids < V
    x = tl.load(logits + row * stride + ids, mask=there, other=-float("inf")).to(tl.float32)
    wrong = tl.sum((x != x).to(tl.int32), 1)
    largest = tl.where(wrong > 0, float("nan"), tl.max(x, 1))
    tl.store(segment_max + row * programs * SEGMENTS + segments, largest)
    bad = tl.sum(wrong, 0)
    own = tl.max(tl.max(x, 1), 0)
    place = row * programs + program
    tl.store(top + place, tl.where(bad > 0, float("nan"), own))
    tl.store(minimum + place, tl.min(tl.min(tl.where(there, x, float("inf")), 1), 0))
    J: tl.constexpr = len(PROPOSALS)
    for j in tl.static_range(J):
        e = tl.where(there, tl.exp((x - own) * PROPOSALS[j]), 0.0)
        tl.store(sums + place * J + j, tl.sum(tl.sum(e, 1), 0))


@triton.jit
def _tail_sums(
    logits, stride, V, tops, first_ids, floors, sums, mass, mass_stride, counts,
    BETAS: tl.constexpr, PROPOSALS: tl.constexpr, SEGMENTS: tl.constexpr, SEGMENT: tl.constexpr,
):  # fmt: skip
    row, program = tl.program_id(0).to(tl.int64), tl.program_id(1)
    programs = tl.num_programs(1)
    segments = program * SEGMENTS + tl.arange(0, SEGMENTS)
    ids = segments[:, None] * SEGMENT + tl.arange(0, SEGMENT)[None, :]
    there = ids < V
    z = tl.load(logits + row * stride + ids, mask=there, other=-float("inf")).to(tl.float32)
    top, first, floor = tl.load(tops + row), tl.load(first_ids + row), tl.load(floors + row)
    tail = ((z < top) | ((z == top) & (ids >= first))) & (z >= floor) & there
    x = tl.where(tail, z - top, 0.0)
    place = row * programs + program
    tl.store(counts + place, tl.sum(tl.sum(tail.to(tl.int32), 1), 0))
    J: tl.constexpr = len(BETAS)
    for j in tl.static_range(J):
        e = tl.where(tail, tl.exp(x * BETAS[j]), 0.0)
        by_segment = tl.sum(e, 1)
        ex = e * x
        out = sums + (place * J + j) * 3
        tl.store(out, tl.sum(tl.sum(ex * x, 1), 0))
        tl.store(out + 1, tl.sum(tl.sum(ex, 1), 0))
        tl.store(out + 2, tl.sum(by_segment, 0))
        for k in tl.static_range(len(PROPOSALS)):
            if PROPOSALS[k] == BETAS[j]:
                tl.store(mass + k * mass_stride + row * programs * SEGMENTS + segments, by_segment)
