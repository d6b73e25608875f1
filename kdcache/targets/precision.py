"""full_precision: float32 products in float32, whatever the process around them allows its model."""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import torch

__all__ = ["full_precision"]


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, no TF32 on a GPU and no bfloat16 products on a CPU; everything as it was afterwards."""
    parts: Any = torch.backends
    backends = (parts.cuda.matmul, parts.mkldnn.matmul)
    before = [backend.fp32_precision for backend in backends]
    for backend in backends:
        backend.fp32_precision = "ieee"
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        for backend, precision in zip(backends, before, strict=True):
            backend.fp32_precision = precision
