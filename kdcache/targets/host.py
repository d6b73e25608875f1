"""Small arrays between host and GPU, without a wait of their own.

A plain `.to(device)` waits for all that the GPU has queued, and so does `.cpu()`. From pinned memory a copy is queued
like other work, and what comes back may be read once the host has waited for anything queued later.
"""

from collections.abc import Callable

import numpy as np
import torch
from torch import Tensor

__all__ = ["coming", "on_host", "to_device"]


def to_device(array: np.ndarray | Tensor, device: torch.device) -> Tensor:
    """The same numbers there; the host goes on at once."""
    tensor = array if isinstance(array, Tensor) else torch.from_numpy(np.ascontiguousarray(array))
    if device.type == "cuda" and tensor.device.type == "cpu":
        tensor = tensor.pin_memory()
    return tensor.to(device, non_blocking=True)


def coming(tensor: Tensor) -> Callable[[], np.ndarray]:
    """Queue a copy to the host; call what is returned after a wait for later work of the same stream (`on_host`)."""
    if not tensor.is_cuda:
        return tensor.numpy
    there = torch.empty_like(tensor, device="cpu", pin_memory=True).copy_(tensor, non_blocking=True)
    return there.numpy


def on_host(*tensors: Tensor) -> list[np.ndarray]:
    """All of them, after one wait for the device."""
    arriving = [coming(tensor) for tensor in tensors]
    if tensors[0].is_cuda:
        torch.cuda.current_stream(tensors[0].device).synchronize()
    return [arrived() for arrived in arriving]
