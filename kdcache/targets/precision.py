"""full_precision: float32 products in float32, whatever the process around them allows its model."""

from collections.abc import Iterator
from contextlib import contextmanager
from threading import Lock
from typing import Any

import torch

__all__ = ["full_precision"]

_lock = Lock()
_before: list[str] = []
"""What the process allowed before the first of those who are inside."""
_inside = 0


@contextmanager
def full_precision(device: torch.device) -> Iterator[None]:
    """No autocast, no TF32 on a GPU and no bfloat16 products on a CPU; everything as it was after the last thread left.

    Autocast is a thread's own, the rest a setting of the process.
    """
    _enter()
    try:
        with torch.autocast(device.type, enabled=False):
            yield
    finally:
        _leave()


def _backends() -> tuple[Any, ...]:
    parts: Any = torch.backends
    return parts.cuda.matmul, parts.mkldnn.matmul


def _enter() -> None:
    global _inside
    with _lock:
        if _inside == 0:
            _before[:] = [backend.fp32_precision for backend in _backends()]
            for backend in _backends():
                backend.fp32_precision = "ieee"
        _inside += 1


def _leave() -> None:
    global _inside
    with _lock:
        _inside -= 1
        if _inside == 0:
            for backend, precision in zip(_backends(), _before, strict=True):
                backend.fp32_precision = precision
