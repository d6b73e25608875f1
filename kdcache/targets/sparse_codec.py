"""Sparse records <-> the arrays that stand for them on disk.

A row's maximum and its logits relative to it are stored as float16, float32 or in integer steps (`logit_codec`), the
tail's moments in steps too (`curve_codec`). Logits more than 240 nats below the maximum are those of masked classes: a
tail does without them, an entry counts as 240 below.

Inclusion probabilities are not stored: they follow from the logits and the tail's moments at the proposals.

P positions, R rows of a block, E entries (flat in arrays, padded in memory), J inverse temperatures.
"""

from collections.abc import Mapping, Sequence
from dataclasses import dataclass, fields, replace
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.targets.constants import FLOOR
from kdcache.targets.curve import TailCurve
from kdcache.targets.curve_codec import Moments, decode_moments, encode_moments
from kdcache.targets.fields import class_dtype
from kdcache.targets.logit_codec import float16_above, from_steps, steps_per_octave, stored_maximum, to_steps
from kdcache.targets.never import NEVER
from kdcache.targets.plan import Plan

__all__ = ["Block", "decode", "encode"]

_BELOW_ONE = 1.0 - 2.0**-24
_EMPTY_TAIL = 65535


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
    block = _without_never(Block(*(np.concatenate([getattr(b, f.name) for b in blocks]) for f in fields(Block))))
    arrays = {
        "maximum": stored_maximum(block.maximum_R, plan.logit_dtype),
        "num_certain": block.num_certain_R.astype(np.uint16),
        "entry_counts": block.counts_R.astype(np.uint32),
        "ids": block.ids_E.astype(class_dtype(num_classes)),
    }
    arrays |= encode_moments(_moments(block, plan), plan.curve, num_classes - block.num_certain_R)
    arrays["tail_value"][(block.tail_count_R == 0) & (block.num_certain_R < num_classes), 0] = _EMPTY_TAIL
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


def _without_never(block: Block) -> Block:
    """Without the certain entries of classes that are never given: they are the last of a row's certain ones."""
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


def decode(arrays: Mapping[str, np.ndarray], plan: Plan, num_classes: int) -> dict[str, Any]:
    """What these arrays stand for, as the arguments of SparseTargets. Flat entries are padded to the longest row."""
    maximum_P = torch.from_numpy(arrays["maximum"].astype(np.float32))
    counts_P = arrays["entry_counts"].astype(np.int64)
    P, E = len(counts_P), int(counts_P.max(initial=1))
    kept_PE = np.arange(E) < counts_P[:, None]
    ids_PE = np.zeros((P, E), np.int64)
    ids_PE[kept_PE] = arrays["ids"]
    num_certain_P = arrays["num_certain"].astype(np.int64)
    certain_PE = np.arange(E) < num_certain_P[:, None]
    relative_PE = torch.from_numpy(_relative_logits(arrays, plan, kept_PE, certain_PE))
    moments = decode_moments(arrays, plan.curve, num_classes - num_certain_P)
    empty_P = (num_certain_P == num_classes) | (arrays["tail_value"][:, 0] == _EMPTY_TAIL)
    value_PK = torch.from_numpy(np.where(empty_P[:, None], -np.inf, moments.value_PK))
    certain = torch.from_numpy(certain_PE)
    label_logits = arrays.get("label_logits")
    return {
        "ids_PE": torch.from_numpy(ids_PE),
        "relative_PE": relative_PE,
        "maximum_P": maximum_P,
        "inclusion_PE": _inclusion(relative_PE, certain, value_PK, plan).float() * torch.from_numpy(kept_PE),
        "num_certain_P": torch.from_numpy(num_certain_P),
        "num_classes": num_classes,
        "curve": TailCurve(
            temperatures=plan.curve.at_temperatures,
            log_partition_PK=value_PK.float(),
            mean_PK=torch.from_numpy(moments.mean_PK).float(),
            variance_PK=None if moments.deviation_PK is None else torch.from_numpy(moments.deviation_PK**2).float(),
            ceiling_P=relative_PE.masked_fill(~certain, 0.0).amin(-1),
        ),
        "relative_label_P": None if label_logits is None else torch.from_numpy(label_logits.astype(np.float32)),
        "some_without_tail": bool(empty_P.any()),
    }


def _inclusion(relative_PE: Tensor, certain_PE: Tensor, value_PK: Tensor, plan: Plan) -> Tensor:
    """π of each entry: 1 when certain, else samples × proposal, scaled up where the tail's sum is below 1."""
    if not plan.samples:
        return torch.ones_like(relative_PE)
    weights, tails = [], []
    for temperature in plan.proposals:
        scaled_PE = relative_PE.double() / temperature
        value_P = value_PK[:, plan.curve.column(temperature)]
        log_partition_P = torch.logaddexp(scaled_PE.masked_fill(~certain_PE, -torch.inf).logsumexp(-1), value_P)
        weights.append(scaled_PE - log_partition_P[:, None])
        tails.append(value_P - log_partition_P)
    log_share = -np.log(len(weights))
    log_tail_P = torch.stack(tails).logsumexp(0) + log_share
    log_scale_P = (-log_tail_P).clamp(min=float(np.log(plan.samples)))
    log_inclusion_PE = torch.stack(weights).logsumexp(0) + log_share + log_scale_P[:, None]
    return log_inclusion_PE.exp().clamp(max=_BELOW_ONE).masked_fill(certain_PE, 1.0)


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


def _relative_logits(
    arrays: Mapping[str, np.ndarray], plan: Plan, kept_PE: np.ndarray, certain_PE: np.ndarray
) -> np.ndarray:
    logits_PE = np.zeros(kept_PE.shape, np.float32)
    if plan.logit_dtype in ("float16", "float32"):
        logits_PE[kept_PE] = arrays["logits"]
        return logits_PE
    span_E = np.repeat(arrays["span"], kept_PE.sum(1)) if plan.logit_dtype == "uint8" else None
    logits_PE[kept_PE] = from_steps(arrays["logits"], steps_per_octave(plan, certain_PE[kept_PE]), span_E)
    lowest_certain_P1 = np.where(certain_PE, logits_PE, 0.0).min(1, keepdims=True, initial=0.0)
    return np.where(certain_PE, logits_PE, np.minimum(logits_PE, lowest_certain_P1))
