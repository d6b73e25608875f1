"""Which classes of a row are kept: its largest, and a systematic sample of the rest.

Systematic sampling (Madow 1949) with inclusion probabilities π: with u ~ U[0, 1) and the running sum c, class i is
kept iff ⌊c_i + u⌋ > ⌊c_{i-1} + u⌋. No sort, one uniform a row, and the number kept differs from Σπ by less than one.
The running sum is int64 in units of 2⁻⁴⁴, over segments of classes first and then inside the few segments where it
passes an integer, in units of 2⁻⁴⁴ of the segment's largest weight: exact, the same whatever the hardware adds in
parallel, and a class of π = 1e-12 still has its chance. float32 would give 0.05% of 262k classes none.

Order is by logit, largest first; of equal logits the smaller class id first.

R rows of a block, V classes, S segments, K candidates for certain entries, D draws at most.
"""

from collections.abc import Sequence

import torch
from torch import Tensor

from kdcache.targets.constants import ID_BITS, ID_MASK, SEGMENT, UNIT

__all__ = ["draw", "largest", "order_key"]


def order_key(logits: Tensor, ids: Tensor) -> Tensor:
    """int64 that grows with the logit and, of equal logits, with the smaller id."""
    bits = (logits.float() + 0.0).view(torch.int32)
    ordered = bits ^ ((bits >> 31) & 0x7FFFFFFF)
    return (ordered.long() << ID_BITS) | (ID_MASK - ids)


def largest(logits_RV: Tensor, segment_max_RS: Tensor, k: int, num_segments: int) -> tuple[Tensor, Tensor]:
    """(ids, logits) of at most k largest of each row, in order, found in the num_segments with the largest maxima.

    The m largest logits of a row lie in m segments, so num_segments = k is always enough.
    """
    R, V = logits_RV.shape
    segments = torch.arange(segment_max_RS.shape[1], device=logits_RV.device)
    best_RS = order_key(segment_max_RS, segments).topk(min(num_segments, len(segments)), dim=1).values
    starts_RS = (ID_MASK - (best_RS & ID_MASK)) * SEGMENT
    ids = (starts_RS[:, :, None] + torch.arange(SEGMENT, device=logits_RV.device)).flatten(1)
    logits = _take(logits_RV, torch.arange(R, device=ids.device)[:, None], ids)
    keys = order_key(logits, ids)
    if V % SEGMENT:
        keys.masked_fill_(ids >= V, torch.iinfo(torch.int64).min)
    order = keys.topk(min(k, ids.shape[1]), dim=1).indices
    return ids.gather(1, order), logits.gather(1, order)


def draw(
    logits_RV: Tensor,
    mass_JRS: Tensor,
    betas: Sequence[float],
    coefficient_RJ: Tensor,
    boundary_R2: tuple[Tensor, Tensor],
    uniform_R: Tensor,
    most: int,
) -> tuple[Tensor, Tensor, Tensor]:
    """(ids, logits, which of them were drawn) of the classes drawn, [R, most] each.

    π of a tail class is Σ_j coefficient_j · exp(β_j (z − top)), scaled up where a row's sum is below 1; mass_JRS is
    Σ exp(β_j (z − top)) of each segment's tail classes. boundary_R2: logit (the tail's top) and id of the first tail
    class in order: classes before it are certain entries. uniform_R: float64 in [0, 1). most: the largest Σ π of a row
    and 1. Rows that are not finite give any classes.
    """
    R, device = len(logits_RV), logits_RV.device
    inclusion_RS = (mass_JRS.double() * coefficient_RJ.T[:, :, None]).sum(0)
    inclusion_RS *= 1.0 / inclusion_RS.sum(1, keepdim=True).clamp(min=1e-300, max=1.0)
    running_RS = (inclusion_RS * UNIT).long().cumsum(1)
    total_R = running_RS[:, -1]
    unit_R = total_R.clamp(max=UNIT)
    start_R = (uniform_R * unit_R).long()
    count_R = (total_R + start_R) // unit_R.clamp(min=1)
    steps = torch.arange(1, most + 1, device=device)
    targets_RD = steps * unit_R[:, None] - start_R[:, None]
    segments_RD = torch.searchsorted(running_RS, targets_RD).clamp_(max=running_RS.shape[1] - 1)
    before = torch.nn.functional.pad(running_RS, (1, 0))
    start_RD = before.gather(1, segments_RD)
    share_RD = (targets_RD - start_RD).double() / (before.gather(1, segments_RD + 1) - start_RD).double()

    rows, segments = torch.arange(R, device=device).repeat_interleave(most), segments_RD.flatten()
    ids = segments[:, None] * SEGMENT + torch.arange(SEGMENT, device=device)
    logits = _take(logits_RV, rows[:, None], ids)
    top, top_id = (edge[rows, None] for edge in boundary_R2)
    in_tail = (logits < top) | ((logits == top) & (ids >= top_id))
    weights = torch.zeros_like(logits, dtype=torch.float64)
    for j, beta in enumerate(betas):
        weights += coefficient_RJ[rows, j, None] * ((logits - top) * beta).exp()
    weights.masked_fill_(~in_tail | (ids >= logits_RV.shape[1]), 0.0)
    weights /= weights.amax(1, keepdim=True).clamp(min=1e-300)
    inner = (weights * UNIT).long().cumsum(1)
    target = (share_RD.flatten() * inner[:, -1].double()).ceil().long().clamp(min=1)
    place = torch.searchsorted(inner, target[:, None]).clamp_(max=SEGMENT - 1)
    drawn = [numbers.gather(1, place).view(R, most) for numbers in (ids, logits)]
    return drawn[0], drawn[1], steps <= count_R[:, None]


def _take(logits_RV: Tensor, rows: Tensor, ids: Tensor) -> Tensor:
    """logits_RV[rows, ids] as float32; ids beyond the last class read the last class."""
    stride = logits_RV.stride(0)
    flat = logits_RV.as_strided((stride * (len(logits_RV) - 1) + logits_RV.shape[1],), (1,))
    return flat.take(rows * stride + ids.clamp(max=logits_RV.shape[1] - 1)).float()
