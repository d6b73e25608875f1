"""Rows of a teacher to the arrays of sparse records.

A row's record depends on the row, the settings and its key alone: not on its neighbours, the block, the batch or the
rank. The compiled loops make the same bits of the same logits on every processor (compiled/lanes.py); torch's sums on a
GPU may differ in the last step of a stored number between kinds of it, as the logits themselves do.

They are made by plain torch on every device but the CPU, where loops compiled by numba take a third of its time;
`method_on` names which, for the header of a cache.
"""

from typing import Literal

import numpy as np
import torch

from kdcache.targets.compiled.rows import CompiledRows
from kdcache.targets.host import coming
from kdcache.targets.never import LOG_NEVER, NEVER, refuse, usable_rows, with_stand_ins
from kdcache.targets.philox import uniform
from kdcache.targets.plan import Plan
from kdcache.targets.precision import full_precision
from kdcache.targets.rows import Rows
from kdcache.targets.sparse_codec import Block, encode
from kdcache.targets.teacher_rows import TeacherRows

__all__ = ["method_on", "sparse_arrays", "sparse_blocks"]


def sparse_arrays(rows: TeacherRows, plan: Plan) -> dict[str, np.ndarray]:
    """The arrays of `Sparse.fields` and entry_counts, of one row or more. Raises TeacherError for NaN, +inf or nothing
    but −inf in a row."""
    label_logits = coming(_label_logits(rows))
    arrays = encode(sparse_blocks(rows, plan), plan, rows.num_classes)
    return arrays | {"label_logits": _stored(label_logits(), arrays["maximum"])}


def sparse_blocks(rows: TeacherRows, plan: Plan) -> list[Block]:
    """What is kept of one row or more, before it is rounded. Raises TeacherError as above."""
    logits_PV = rows.logits_PV
    P, V = logits_PV.shape
    uniform_P = torch.from_numpy(uniform(rows.keys_P3))
    if logits_PV.stride(1) != 1:
        logits_PV = logits_PV.contiguous()
    device = logits_PV.device
    maker = CompiledRows(plan) if method_on(device.type) == "numba" else Rows(V, plan, device)
    step = max(1, maker.block_bytes // (4 * V))
    blocks = []
    with full_precision(device):
        for p in range(0, P, step):
            block = maker.block(logits_PV[p : p + step], uniform_P[p : p + step])
            if not np.isfinite(block.maximum_R).all():
                refuse(usable_rows(logits_PV[p : p + step]), p, P)
                block = maker.block(with_stand_ins(logits_PV[p : p + step]), uniform_P[p : p + step])
            blocks.append(block)
    return blocks


def method_on(device_type: str) -> Literal["numba", "torch"]:
    """What makes sparse records there. The two differ in the last bits of a sum, and so now and then in a record."""
    return "numba" if device_type == "cpu" else "torch"


def _label_logits(rows: TeacherRows) -> torch.Tensor:
    """float32 [P], raw; of a label that is not known, that of class 0."""
    labels_P1 = rows.labels_on(rows.logits_PV.device)[:, None]
    return rows.logits_PV.gather(1, labels_P1)[:, 0].float()


def _stored(label_logits_P: np.ndarray, maximum_P: np.ndarray) -> np.ndarray:
    """float16 [P], relative to the row's maximum; of a label that is never given −240."""
    relative_P = label_logits_P - maximum_P
    lowest = np.where(relative_P <= NEVER, LOG_NEVER, np.finfo(np.float16).min)
    return np.maximum(relative_P, lowest).astype(np.float16)
