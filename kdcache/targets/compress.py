"""compress: rows of teacher logits to records.

P positions, E entries, V classes, K stored temperatures.
"""

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import TeacherError
from kdcache.targets.codec import decode, quantise
from kdcache.targets.fields import class_dtype
from kdcache.targets.record import TeacherTargets
from kdcache.targets.spec import RecordSpec

__all__ = ["compress", "compress_to_arrays"]


def compress(logits_PV: Tensor, spec: RecordSpec, generator_keys: object = None) -> TeacherTargets:
    """What a reader of the cache will get back for these rows: the quantised round trip.

    logits_PV: raw teacher logits, any float dtype and device. generator_keys: int64 [P, 3] = (seed, example,
    position), the keys of the random draws; records without sampling ignore them.
    Raises TeacherError for NaN or infinite logits.
    """
    arrays = compress_to_arrays(logits_PV, spec, generator_keys)
    return decode(arrays, spec, logits_PV.shape[1])


def compress_to_arrays(logits_PV: Tensor, spec: RecordSpec, generator_keys: object = None) -> dict[str, np.ndarray]:
    """The arrays of `record_fields(spec, V)` for these rows, plus entry_counts for a sparse record."""
    logits_PV = logits_PV.float()
    maximum_P = logits_PV.amax(-1)
    bad_P = ~(maximum_P.isfinite() & logits_PV.amin(-1).isfinite())
    if bad_P.any():
        raise TeacherError(
            f"the teacher gave NaN or infinite logits in row {int(bad_P.nonzero()[0])} of {len(bad_P)}, "
            "expected finite ones; try teacher.dtype float32 or bfloat16"
        )
    relative_PV = logits_PV - maximum_P[:, None]
    P, V = logits_PV.shape
    if spec.dense:
        return {
            "maximum": maximum_P.cpu().numpy(),
            "logits": relative_PV.cpu().numpy().astype(spec.logit_dtype),
        }
    assert spec.exact_top_k != "all"
    ids_PE = _largest(relative_PV, min(spec.exact_top_k, V))
    entries_PE = relative_PV.gather(1, ids_PE)
    tail_PV = relative_PV.scatter(1, ids_PE, -torch.inf)
    has_tail = tail_PV.shape[1] > ids_PE.shape[1]
    values, means = [], []
    for temperature in spec.curve.temperatures:
        scaled_PV = tail_PV / temperature
        log_partition_P = scaled_PV.logsumexp(-1)
        values.append(log_partition_P)
        probs_PV = (scaled_PV - log_partition_P[:, None]).exp()
        mean_P = (probs_PV * relative_PV).sum(-1)
        means.append(mean_P if has_tail else torch.zeros_like(mean_P))
    span_P = (-entries_PE[:, -1]).cpu().numpy()
    counts_P = np.full(P, ids_PE.shape[1], np.int64)
    arrays = {
        "maximum": maximum_P.cpu().numpy(),
        "num_certain": counts_P.astype(np.uint16),
        "tail_log_partition": torch.stack(values, 1).cpu().numpy(),
        "tail_mean": torch.stack(means, 1).cpu().numpy(),
        "entry_counts": counts_P.astype(np.uint32),
        "ids": ids_PE.flatten().cpu().numpy().astype(class_dtype(V)),
        "logits": quantise(entries_PE.flatten().cpu().numpy(), span_P, counts_P, spec.logit_dtype),
    }
    if spec.logit_dtype == "uint8":
        arrays["span"] = span_P
    return arrays


def _largest(values_PV: Tensor, k: int) -> Tensor:
    """Ids of the k largest values of each row, largest first; of equal values the smaller id first."""
    if k == values_PV.shape[1]:
        return values_PV.argsort(dim=-1, descending=True, stable=True)
    top_PE = values_PV.topk(k, dim=-1).values
    threshold_P1 = top_PE[:, -1:]
    above_P1 = (top_PE > threshold_P1).sum(-1, keepdim=True)
    equal_PV = values_PV == threshold_P1
    room_PV = equal_PV.cumsum(-1) <= k - above_P1
    kept_PV = (values_PV > threshold_P1) | (equal_PV & room_PV)
    ids_PE = kept_PV.nonzero()[:, 1].view(-1, k)
    order_PE = values_PV.gather(1, ids_PE).argsort(dim=-1, descending=True, stable=True)
    return ids_PE.gather(1, order_PE)
