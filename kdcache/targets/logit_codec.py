"""Kept logits <-> the integers that stand for them on disk, as steps s below the row's maximum M.

uint16   logarithmic steps (μ-law companding): M + 1 − 2^(s / 1024) for certain entries, an error of at most
         3.4e-4 (1 + M − logit) nats, so that log Z keeps to 1e-3 at every temperature; M + 1 − 2^(s / 64) for the
         others, whose weights carry sampling noise a hundred times larger, and M + 1 − 2^(s / 8) where the only
         temperature of the curve is the only proposal: a drawn entry's weight p / π is 1 / samples there, whatever
         its logit, which is kept for the reader's interest alone.
uint8    M − s · span / 255, span the row's own range in float16: an error of at most span / 510. KL 2.4e-5 nats at
         T = 1, but log Z is off by up to 1e-2. Saves 3 bytes per position.

Measured on a 135M language model, 14.2 entries per position: uint16 takes 19 bytes after compression, float16 23; with
9.9 entries at 8 steps 8.1, at 64 steps 11.6.

Encoding is numpy's, decoding torch's, on any device. No torch is imported here, so that a manifest loads in
milliseconds.

E entries, flat; dense records give rows of them, all certain.
"""

from typing import TYPE_CHECKING

import numpy as np

from kdcache.targets.plan import Plan

if TYPE_CHECKING:
    from torch import Tensor

__all__ = [
    "DENSE_STEPS",
    "float16_above",
    "from_linear",
    "from_octaves",
    "octave_steps",
    "steps_per_octave",
    "stored_maximum",
    "to_steps",
]

_CERTAIN, _SAMPLED, _SAMPLED_AT_PROPOSAL = 1024, 64, 8
DENSE_STEPS = (_CERTAIN, _SAMPLED)
"""Per octave, of the uint16 codes of dense records: all of their entries are certain."""
_MAXIMUM_STEPS = 4096


def stored_maximum(maximum_P: np.ndarray, logit_dtype: str) -> np.ndarray:
    """float32, rounded to 2⁻¹² unless the logits are float32: the last bits are idle then, and a maximum takes 2.3
    bytes after compression in place of 3.3."""
    if logit_dtype == "float32":
        return maximum_P
    return (np.rint(maximum_P.astype(np.float64) * _MAXIMUM_STEPS) / _MAXIMUM_STEPS).astype(np.float32)


def octave_steps(plan: Plan) -> tuple[int, int] | None:
    """(of certain entries, of the others), of uint16 codes; None for other dtypes."""
    if plan.logit_dtype != "uint16":
        return None
    return _CERTAIN, _SAMPLED_AT_PROPOSAL if _weights_are_known(plan) else _SAMPLED


def steps_per_octave(plan: Plan, certain_E: np.ndarray | np.bool_) -> np.ndarray:
    """Of the uint16 codes of entries, certain or not; any number for other dtypes, which have no such steps."""
    return np.where(certain_E, *(octave_steps(plan) or (1, 1)))


def to_steps(relative_E: np.ndarray, steps_E: np.ndarray, span_E: np.ndarray | None) -> np.ndarray:
    """relative_E: logits minus their row's maximum. steps_E: per octave, for uint16. span_E: the row's, for uint8."""
    if span_E is not None:
        return np.rint(-relative_E / _linear(span_E)).astype(np.uint8)
    return np.rint(steps_E * np.log2(1.0 - relative_E.astype(np.float64))).astype(np.uint16)


def from_octaves(codes: "Tensor", steps: "float | Tensor") -> "Tensor":
    """Relative logits of uint16 codes, float64. steps: per octave."""
    return codes.double().div_(steps).exp2_().neg_().add_(1.0)


def from_linear(codes_E: "Tensor", span_E: "Tensor") -> "Tensor":
    """Relative logits of uint8 codes, float64. span_E: the row's."""
    return codes_E.double() * (span_E.double().masked_fill(span_E <= 0, 1.0) / -255.0)


def _weights_are_known(plan: Plan) -> bool:
    return not plan.curve.interpolates and plan.proposals == plan.curve.temperatures and len(plan.proposals) == 1


def float16_above(numbers: np.ndarray) -> np.ndarray:
    """The smallest float16 that is not below each number."""
    rounded = numbers.astype(np.float16)
    return np.where(rounded < numbers, np.nextafter(rounded, np.float16(np.inf)), rounded)


def _linear(span_E: np.ndarray) -> np.ndarray:
    return np.where(span_E > 0, span_E, 1.0).astype(np.float64) / 255.0
