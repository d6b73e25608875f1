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
from typing import Any

import torch
from torch import Tensor

__all__ = ["add_product", "has_wide_output", "wide_product"]

_WIDE: dict[tuple[str, torch.dtype], bool] = {}
_NUMBERS = 1 << 24
"""Of a part of the right matrix, or of a product before it is copied."""


def wide_product(left_PD: Tensor, right_VD: Tensor, out: Tensor | None = None) -> Tensor:
    """left · rightᵀ, float32 [P, V], of two bfloat16 or two float16 matrices; no gradient. out: where to put it."""
    (P, D), V = left_PD.shape, len(right_VD)
    out = left_PD.new_empty(P, V, dtype=torch.float32) if out is None else out
    with torch.no_grad(), torch.autocast(left_PD.device.type, enabled=False):
        if has_wide_output(left_PD.device.type, left_PD.dtype):
            return torch.mm(left_PD, right_VD.T, out_dtype=torch.float32, out=out)
        left, step = left_PD.float(), max(1, _NUMBERS // max(P, D, 1))
        with _exact_for(left_PD):
            for start in range(0, V, step):
                part_VD, columns = right_VD[start : start + step], slice(start, start + step)
                torch.mm(left, part_VD.float().T, out=out[:, columns])
    return out


def add_product(total_VD: Tensor, left_VP: Tensor, right_PD: Tensor) -> None:
    """total += left · right, in place and without a gradient, summed in the total's dtype.

    Where the device has no product of half-precision matrices with a float32 output, parts of the product are rounded
    before they are added.
    """
    with torch.no_grad():
        if total_VD.dtype == left_VP.dtype:
            total_VD.addmm_(left_VP, right_PD)
        elif total_VD.dtype == torch.float32 and has_wide_output(left_VP.device.type, left_VP.dtype):
            torch.addmm(total_VD, left_VP, right_PD, out_dtype=torch.float32, out=total_VD)
        else:
            step = max(1, 2 * _NUMBERS // right_PD.shape[1])
            for start in range(0, len(total_VD), step):
                total_VD[start : start + step] += left_VP[start : start + step] @ right_PD


def has_wide_output(device_type: str, dtype: torch.dtype) -> bool:
    """Whether torch has products with a float32 output there, found out once by making them."""
    found = _WIDE.get((device_type, dtype))
    if found is None:
        found = _WIDE[device_type, dtype] = device_type != "cpu" and _tried(device_type, dtype)
    return found


def _tried(device_type: str, dtype: torch.dtype) -> bool:
    try:
        ones = torch.ones(16, 16, dtype=dtype, device=device_type)
        product = torch.mm(ones, ones, out_dtype=torch.float32)
        torch.addmm(product, ones, ones, out_dtype=torch.float32, out=product)
        return product.dtype is torch.float32
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
