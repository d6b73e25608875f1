"""Sparse records -> the arrays that stand for them on disk; sparse_decoding.py is the way back.

A row's maximum and its logits relative to it are stored as float16, float32 or in integer steps (`logit_codec`), the
tail's moments in steps too (`curve_codec`). Logits more than 240 nats below the maximum are those of masked classes: a
tail does without them, an entry counts as 240 below.

P positions, R rows of a block, E entries, flat, J inverse temperatures.
"""

from collections.abc import Sequence
from dataclasses import dataclass, fields, replace

import numpy as np

from kdcache.targets.constants import FLOOR
from kdcache.targets.curve_codec import Moments, encode_moments
from kdcache.targets.fields import class_dtype
from kdcache.targets.logit_codec import float16_above, steps_per_octave, stored_maximum, to_steps
from kdcache.targets.never import NEVER
from kdcache.targets.plan import Plan
from kdcache.targets.sparse_decoding import EMPTY_TAIL

__all__ = ["Block", "encode", "joined"]


@dataclass(frozen=True)
class Block:
    """Sparse records before quantisation; entries flat, row after row, in order.

    relative_E, tail_top_R: logits relative to maximum_R. tail_count_R, sums_RJ3: over the tail without classes below
    FLOOR, how many and Σ e x², Σ e x, Σ e with x = logits − tail top, e = exp(β x).
    """

    maximum_R: np.ndarray
    num_certain_R: np.ndarray
    counts_R: np.ndarray
    ids_E: np.ndarray
    relative_E: np.ndarray
    tail_top_R: np.ndarray
    tail_count_R: np.ndarray
    sums_RJ3: np.ndarray


def encode(blocks: Sequence[Block], plan: Plan, num_classes: int) -> dict[str, np.ndarray]:
    """The arrays of `record_fields` and entry_counts."""
    block = joined(blocks)
    arrays = {
        "maximum": stored_maximum(block.maximum_R, plan.logit_dtype),
        "num_certain": block.num_certain_R.astype(np.uint16),
        "entry_counts": block.counts_R.astype(np.uint32),
        "ids": block.ids_E.astype(class_dtype(num_classes)),
    }
    arrays |= encode_moments(_moments(block, plan), plan.curve, num_classes - block.num_certain_R)
    arrays["tail_value"][(block.tail_count_R == 0) & (block.num_certain_R < num_classes), 0] = EMPTY_TAIL
    relative_E = np.maximum(block.relative_E, np.float32(FLOOR))
    if plan.logit_dtype == "float32":
        return arrays | {"logits": relative_E}
    if plan.logit_dtype == "float16":
        return arrays | {"logits": relative_E.astype(np.float16)}
    counts_P = block.counts_R
    ends_P = counts_P.cumsum()
    certain_E = np.arange(len(relative_E)) < np.repeat(ends_P - counts_P + block.num_certain_R, counts_P)
    span_E = None
    if plan.logit_dtype == "uint8":
        arrays["span"] = float16_above(-relative_E[ends_P - 1])
        span_E = np.repeat(arrays["span"], counts_P)
    return arrays | {"logits": to_steps(relative_E, steps_per_octave(plan, certain_E), span_E)}


def joined(blocks: Sequence[Block]) -> Block:
    """One after the other, without the certain entries of classes that are never given: they are the last of a row's
    certain ones."""
    block = Block(*(np.concatenate([getattr(b, f.name) for b in blocks]) for f in fields(Block)))
    never_E = block.relative_E <= NEVER
    if not never_E.any():
        return block
    rows_E = np.repeat(np.arange(len(block.counts_R)), block.counts_R)
    dropped_R = np.bincount(rows_E[never_E], minlength=len(block.counts_R))
    return replace(
        block,
        num_certain_R=block.num_certain_R - dropped_R,
        counts_R=block.counts_R - dropped_R,
        ids_E=block.ids_E[~never_E],
        relative_E=block.relative_E[~never_E],
    )


def _moments(block: Block, plan: Plan) -> Moments:
    betas = np.array(plan.curve.betas)
    squares_PJ, firsts_PJ, zeroths_PJ = np.moveaxis(block.sums_RJ3, 2, 0)
    tail_count_P1 = block.tail_count_R[:, None]
    zeroths_PJ = np.where(betas == 0, tail_count_P1, zeroths_PJ)
    zeroths_PJ = np.where(tail_count_P1 == 0, 1.0, zeroths_PJ)
    means_PJ = firsts_PJ / zeroths_PJ
    variances_PJ = np.maximum(squares_PJ / zeroths_PJ - means_PJ**2, 0.0)
    top_P1 = block.tail_top_R.astype(np.float64)[:, None]
    return Moments(
        value_PK=betas * top_P1 + np.log(zeroths_PJ),
        mean_PK=top_P1 + means_PJ,
        deviation_PK=np.sqrt(variances_PJ) if plan.curve.interpolates else None,
    )
