"""torch.load that runs nothing: tensors, plain values and four classes of DeepSpeed, whoever calls it.

DeepSpeed 0.19 passes weights_only=False at every call, in its checkpoint engine, in the loading of universal
checkpoints and in their conversion. TORCH_FORCE_WEIGHTS_ONLY_LOAD is PyTorch's own word for all of them. What
DeepSpeed's files hold beside tensors and plain values, at stages 0 to 3, in float32 and in half precision, as they are
and converted: the stage (an enum), where a parameter lies in a flat tensor (two integers) and the loss scaler.
"""

import os
import re
from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

__all__ = ["allowed", "only_weights", "what_it_would_run"]

FORCE, FORCE_NOT = "TORCH_FORCE_WEIGHTS_ONLY_LOAD", "TORCH_FORCE_NO_WEIGHTS_ONLY_LOAD"


def allowed() -> list[Any]:
    """The classes of DeepSpeed that a checkpoint may hold. None of them runs anything when it is made or filled."""
    from deepspeed.runtime.fp16.loss_scaler import DynamicLossScaler, LossScaler
    from deepspeed.runtime.zero.config import ZeroStageEnum
    from deepspeed.utils.tensor_fragment import fragment_address

    return [ZeroStageEnum, LossScaler, DynamicLossScaler, fragment_address]


@contextmanager
def only_weights() -> Iterator[None]:
    """Inside, torch.load raises UnpicklingError for a file that holds anything else."""
    import torch

    before = {name: os.environ.pop(name, None) for name in (FORCE, FORCE_NOT)}
    os.environ[FORCE] = "1"
    try:
        with torch.serialization.safe_globals(allowed()):
            yield
    finally:
        for name, value in before.items():
            if value is None:
                os.environ.pop(name, None)
            else:
                os.environ[name] = value


def what_it_would_run(words: str) -> str | None:
    """The name of what a refused file asked for, of torch's message; None for other messages."""
    if "Weights only load failed" not in words and "WeightsUnpickler" not in words:
        return None
    found = re.search(r"GLOBAL (\S+)", words) or re.search(r"instantiate the type (\S+)", words)
    return found.group(1).strip("`'\".") if found else "a command of pickle"
