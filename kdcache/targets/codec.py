"""Records <-> the arrays that stand for them on disk.

A row's maximum is stored in float32 and its logits relative to it: as float16, float32, or as uint8 steps of the
row's own range (span / 255 each, so an error of at most span / 510).

P positions, E entries, V classes.
"""

from collections.abc import Mapping

import numpy as np
import torch

from kdcache.targets.curve import TailCurve
from kdcache.targets.record import TeacherTargets
from kdcache.targets.spec import RecordSpec

__all__ = ["decode", "quantise"]


def quantise(relative: np.ndarray, span_P: np.ndarray, counts_P: np.ndarray, dtype: str) -> np.ndarray:
    """Logits relative to their row's maximum (≤ 0, flat, row after row) in their stored dtype."""
    if dtype != "uint8":
        return relative.astype(dtype)
    step = np.repeat(np.where(span_P > 0, span_P, 1.0) / 255.0, counts_P)
    return np.rint(-relative / step).astype(np.uint8)


def decode(arrays: Mapping[str, np.ndarray], spec: RecordSpec, num_classes: int) -> TeacherTargets:
    """The records that these arrays stand for. Flat entries are padded to the longest row."""
    maximum_P = torch.from_numpy(arrays["maximum"].astype(np.float32))
    if spec.dense:
        return _decode_dense(arrays, maximum_P, num_classes)
    counts_P = arrays["entry_counts"].astype(np.int64)
    P, E = len(counts_P), int(counts_P.max(initial=0))
    kept_PE = np.arange(E) < counts_P[:, None]
    relative = arrays["logits"].astype(np.float32)
    if spec.logit_dtype == "uint8":
        relative *= np.repeat(-arrays["span"] / np.float32(255.0), counts_P)
    ids_PE = np.zeros((P, E), np.int64)
    ids_PE[kept_PE] = arrays["ids"]
    logits_PE = np.zeros((P, E), np.float32)
    logits_PE[kept_PE] = relative
    temperatures = spec.curve.temperatures
    scaled_max_PK = maximum_P[:, None] / torch.tensor(temperatures)
    return TeacherTargets(
        ids_PE=torch.from_numpy(ids_PE),
        logits_PE=torch.from_numpy(logits_PE) + maximum_P[:, None],
        inclusion_PE=torch.from_numpy(kept_PE.astype(np.float32)),
        num_certain_P=torch.from_numpy(arrays["num_certain"].astype(np.int64)),
        num_classes=num_classes,
        curve=TailCurve(
            temperatures,
            torch.from_numpy(arrays["tail_log_partition"].astype(np.float32)) + scaled_max_PK,
            torch.from_numpy(arrays["tail_mean"].astype(np.float32)) + maximum_P[:, None],
        ),
        tail=spec.tail,
    )


def _decode_dense(arrays: Mapping[str, np.ndarray], maximum_P: torch.Tensor, num_classes: int) -> TeacherTargets:
    logits_PV = torch.from_numpy(arrays["logits"].astype(np.float32)) + maximum_P[:, None]
    P = len(logits_PV)
    return TeacherTargets(
        ids_PE=torch.arange(num_classes).expand(P, num_classes),
        logits_PE=logits_PV,
        inclusion_PE=torch.ones(1, 1).expand(P, num_classes),
        num_certain_P=torch.full((P,), num_classes),
        num_classes=num_classes,
        curve=None,
    )
