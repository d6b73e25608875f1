"""Write a model as a plain Hugging Face folder."""

import copy
import stat
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError
from torch import Tensor

from kdcache.errors import StudentError, one_line

__all__ = ["save_pretrained", "write_model"]


def save_pretrained(model: Any, folder: Path) -> None:
    """As transformers does, with files that others may read as they may read any new file here: safetensors makes its
    own for their owner alone, so that nobody else could load the model. Raises OSError where the disk refuses.
    """
    try:
        model.save_pretrained(folder)
    except SafetensorError as error:  # the system's own error comes as words
        raise OSError(one_line(error)) from None
    mode = stat.S_IMODE((folder / "config.json").stat().st_mode)
    for path in folder.glob("*.safetensors"):
        path.chmod(mode)


def write_model(model_config: Any, weights: dict[str, Tensor], folder: Path, *, dtype: torch.dtype, like: Any) -> int:
    """Save a model of this config with these weights as safetensors; returns its number of parameters.

    like: the model whose class and generation settings it has. A fresh model takes the weights, so that tied ones
    and buffers are as transformers wants them. Raises StudentError when a weight is missing or left over.
    """
    model = type(like)(copy.deepcopy(model_config)).to(dtype)
    missing, unexpected = model.load_state_dict(weights, strict=False)
    tied = {*(model.all_tied_weights_keys or ())}
    parameters = {name for name, _ in model.named_parameters(remove_duplicate=False)}
    if unexpected or (missing := [key for key in missing if key in parameters and key not in tied]):
        raise StudentError(
            f"{type(like).__name__} cannot be rebuilt from its config: {len(missing)} weights are missing and "
            f"{len(unexpected)} left over, the first {[*missing, *unexpected][0]}"
        )
    model.tie_weights()
    if model.can_generate():
        model.generation_config = like.generation_config
    save_pretrained(model, folder)
    return sum(p.numel() for p in model.parameters())
