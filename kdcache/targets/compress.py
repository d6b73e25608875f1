"""compress: rows of teacher logits to records.

A row's record depends on the row, the settings and its key alone: not on its neighbours, the block, the
batch or the rank. It may differ in the last step of a stored number between kinds of hardware, as the logits
themselves do.

Sparse records are made by plain torch on every device but the CPU, where loops compiled by numba take a third of its
time; `method_on` names which, for the header of a cache.

P positions, V classes, R directions of a basis.
"""

from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import ConfigError, TeacherError
from kdcache.targets.basis import Basis
from kdcache.targets.codec import decode, encode, encode_coefficients, encode_dense
from kdcache.targets.compiled.rows import CompiledRows
from kdcache.targets.fields import COUNTS, empty_arrays, record_fields
from kdcache.targets.never import usable_rows, with_stand_ins
from kdcache.targets.philox import uniform
from kdcache.targets.precision import full_precision
from kdcache.targets.record import TeacherTargets
from kdcache.targets.rows import Rows
from kdcache.targets.spec import MAX_CLASSES, RecordSpec

__all__ = ["compress", "compress_to_arrays", "method_on"]


def compress(
    logits_PV: Tensor,
    spec: RecordSpec,
    generator_keys: object = None,
    *,
    coefficients_PR: Tensor | None = None,
    basis: Basis | None = None,
) -> TeacherTargets:
    """What a reader of the cache will get back for these rows: the quantised round trip, on the logits' device.

    logits_PV: raw teacher logits, any float dtype and device. generator_keys: anything that converts to int64
    [P, 3] = (seed, example, position), the keys of the draws; without it row i has the key (0, 0, i).
    coefficients_PR, basis: of a record with a factor, what an Encoder made of the rows' hidden states, and its basis.
    Raises TeacherError for NaN, +inf or nothing but −inf in a row, ConfigError for keys, coefficients or a basis of
    another shape.
    """
    arrays = compress_to_arrays(logits_PV, spec, generator_keys, coefficients_PR)
    if (coefficients_PR is None) != (basis is None):
        raise ConfigError("got one of coefficients_PR and basis, expected both or none")
    if coefficients_PR is not None and basis is not None:
        got, expected = [basis.num_classes, basis.rank], [logits_PV.shape[1], coefficients_PR.shape[1]]
        if got != expected:
            raise ConfigError(f"got a basis [classes, rank] {got}, expected {expected} of the logits and coefficients")
    return decode(arrays, spec, logits_PV.shape[1], basis).to(logits_PV.device)


@torch.no_grad()
def compress_to_arrays(
    logits_PV: Tensor, spec: RecordSpec, generator_keys: object = None, coefficients_PR: Tensor | None = None
) -> dict[str, np.ndarray]:
    """The arrays of `record_fields(spec, V, R)` for these rows, plus entry_counts for a sparse record."""
    if logits_PV.ndim != 2:
        raise ConfigError(f"got logits of shape {[*logits_PV.shape]}, expected [positions, classes]")
    P, V = logits_PV.shape
    _check_coefficients(coefficients_PR, spec, P)
    if not 0 < V <= MAX_CLASSES:
        raise ConfigError(f"got {V} classes, expected 1 to {MAX_CLASSES}")
    uniform_P = torch.from_numpy(uniform(_keys(generator_keys, P)))
    if P == 0:
        rank = None if coefficients_PR is None else coefficients_PR.shape[1]
        arrays = empty_arrays(record_fields(spec, V, rank))
        return {name: array for name, array in arrays.items() if name != COUNTS["position"]}
    if spec.dense:
        maximum_P = logits_PV.amax(-1).float()
        _refuse(maximum_P.isfinite(), 0, P)
        return encode_dense(maximum_P.cpu().numpy(), (logits_PV.float() - maximum_P[:, None]).cpu().numpy(), spec)
    if logits_PV.stride(1) != 1:
        logits_PV = logits_PV.contiguous()
    device = logits_PV.device
    rows = CompiledRows(spec) if method_on(device.type) == "numba" else Rows(V, spec, device)
    step = max(1, rows.block_bytes // (4 * V))
    blocks = []
    with full_precision(device):
        for p in range(0, P, step):
            block = rows.block(logits_PV[p : p + step], uniform_P[p : p + step])
            if not np.isfinite(block.maximum_R).all():
                _refuse(usable_rows(logits_PV[p : p + step]), p, P)
                block = rows.block(with_stand_ins(logits_PV[p : p + step]), uniform_P[p : p + step])
            blocks.append(block)
    arrays = encode(blocks, spec, V)
    if coefficients_PR is not None:
        arrays["coefficients"] = encode_coefficients(coefficients_PR)
    return arrays


def method_on(device_type: str) -> Literal["numba", "torch"]:
    """What makes sparse records there. The two differ in the last bits of a sum, and so now and then in a record."""
    return "numba" if device_type == "cpu" else "torch"


def _check_coefficients(coefficients_PR: Tensor | None, spec: RecordSpec, P: int) -> None:
    if (coefficients_PR is None) != (spec.factor is None):
        got, expected = ("no coefficients", "them") if spec.factor else ("coefficients", "none")
        raise ConfigError(f"got {got} for records {'with' if spec.factor else 'without'} a factor, expected {expected}")
    if coefficients_PR is not None and (len(coefficients_PR) != P or coefficients_PR.dtype != torch.int8):
        raise ConfigError(
            f"got coefficients {coefficients_PR.dtype}{[*coefficients_PR.shape]}, expected int8, one row for each of "
            f"{P} rows of logits"
        )


def _refuse(finite_R: Tensor, first: int, total: int) -> None:
    if not finite_R.all():
        raise TeacherError(
            f"the teacher gave NaN or infinite logits in row {first + int((~finite_R).nonzero()[0])} of {total}, "
            "expected finite ones, or −inf for classes that it never gives, not for all; try teacher.dtype float32 or "
            "bfloat16"
        )


def _keys(generator_keys: object, P: int) -> np.ndarray:
    if generator_keys is None:
        return np.stack([np.zeros(P, np.int64), np.zeros(P, np.int64), np.arange(P)], 1)
    if isinstance(generator_keys, Tensor):
        generator_keys = generator_keys.cpu().numpy()
    keys = np.asarray(generator_keys)
    if keys.size == P == 0:
        return np.empty((0, 3), np.int64)
    whole = keys.dtype.kind in "iufb" and (keys == np.trunc(keys)).all()
    if keys.shape != (P, 3) or not whole:
        raise ConfigError(
            f"got generator_keys {keys.dtype}{list(keys.shape)}, expected whole numbers [{P}, 3]: seed, example, "
            "position of each row"
        )
    return np.ascontiguousarray(keys, dtype=np.int64)
