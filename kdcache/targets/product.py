"""wide_product: a float32 product of half-precision matrices.

bfloat16 has 8 binary digits, so that a logit of 20 rounded to it is off by up to 1/16: more than a student near its
teacher differs from it. Products of two bfloat16 or float16 numbers are exact in float32 and their sum is kept there
anyway; only the result is rounded, and here it is not.

On a GPU that is the same product with another output type. A CPU has none such in torch: parts of the right matrix are
made float32, and where the inputs are bfloat16 its float32 products may run on bfloat16 units, to which those numbers
are exact. Cost: tests/bench/head_product.py.

P rows, D inner width, V columns.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from functools import lru_cache
from typing import Any

import torch
from torch import Tensor

__all__ = ["wide_product"]

_NUMBERS = 1 << 24
"""Of a part of the right matrix, or of a product before it is copied."""


def wide_product(left_PD: Tensor, right_VD: Tensor, out: Tensor | None = None) -> Tensor:
    """left · rightᵀ, float32 [P, V], of two bfloat16 or two float16 matrices; no gradient. out: where to put it."""
    (P, D), V = left_PD.shape, len(right_VD)
    out = left_PD.new_empty(P, V, dtype=torch.float32) if out is None else out
    native = _has_wide_output(left_PD.device, left_PD.dtype)
    left = left_PD if native else left_PD.float()
    step = max(1, _NUMBERS // max(P, D, 1))
    with torch.no_grad(), torch.autocast(left_PD.device.type, enabled=False), _exact_for(left_PD):
        for start in range(0, V, step):
            part_VD, columns = right_VD[start : start + step], slice(start, start + step)
            if native:
                out[:, columns] = torch.mm(left, part_VD.T, out_dtype=torch.float32)
            else:
                torch.mm(left, part_VD.float().T, out=out[:, columns])
    return out


@lru_cache
def _has_wide_output(device: torch.device, dtype: torch.dtype) -> bool:
    """Whether torch has the product with a float32 output on this device, found out by making one."""
    if device.type == "cpu":
        return False
    try:
        ones = torch.ones(16, 16, dtype=dtype, device=device)
        return bool(torch.mm(ones, ones, out_dtype=torch.float32).dtype is torch.float32)
    except (NotImplementedError, RuntimeError, TypeError):
        return False


@contextmanager
def _exact_for(tensor: Tensor) -> Iterator[None]:
    """On a CPU: the fastest float32 product that is exact for numbers of this dtype."""
    if tensor.device.type != "cpu":
        yield
        return
    parts: Any = torch.backends
    backend = parts.mkldnn.matmul
    before = backend.fp32_precision
    backend.fp32_precision = "bf16" if tensor.dtype is torch.bfloat16 else "ieee"
    try:
        yield
    finally:
        backend.fp32_precision = before
