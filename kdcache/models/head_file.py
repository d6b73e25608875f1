"""load_shell: the head of a language model and its final norm, read from a checkpoint without the body.

The model is made of its config on torch's meta device, which takes no memory; the output layer and the final norm get
their weights, and the body is dropped. The model's own forward stays, so that whatever it does after its output layer
is done here too. Of the safetensors files the header and these weights alone are read: 57 MB of the 269 MB of a 135M
model whose output layer is its embedding.

The final norm is the one norm of the body that stands outside its numbered layers and its embeddings. Where there is
none, or where other weights stand beside it (a projection, as OPT may have), only states after the norm can be given.
"""

from collections.abc import Iterable
from pathlib import Path
from typing import Any

import torch
from safetensors import SafetensorError, safe_open
from torch import Tensor, nn

from kdcache.errors import TeacherError, one_line
from kdcache.models.head_probe import Found, post_of
from kdcache.models.replay import Replay, replayed
from kdcache.models.strangers import INDEX, model_config, weights_in_index

__all__ = ["final_norm", "load_shell", "probe_shell"]

WHOLE = "model.safetensors"


def load_shell(folder: str | Path, dtype: torch.dtype | None, device: torch.device | str) -> tuple[Any, Any]:
    """A language model without its body.

    Args:
        folder: of a checkpoint, one safetensors file or several with their index.
        dtype: of the weights; None for that of the files.
        device: where they go.

    Returns:
        (the model with a Replay in the place of its body, its final norm or None where that cannot be told).

    Raises:
        TeacherError: it is no language model's folder, or lacks a weight of the head.
    """
    from transformers import AutoModelForCausalLM

    folder = Path(folder)
    try:
        with torch.device("meta"):
            model = AutoModelForCausalLM.from_config(model_config(folder, weights=True), trust_remote_code=False).eval()
    except Exception as error:  # transformers raises a dozen classes for a broken folder
        raise TeacherError(f"the head in {folder} does not load: {one_line(error)}") from None
    layer, norm = model.get_output_embeddings(), final_norm(model)
    if layer is None or model.base_model is model:
        raise TeacherError(f"{type(model).__name__} has no head apart from a body, expected an output layer")
    modules = [module for module in (layer, norm) if module is not None]
    names = {id(module): name for name, module in model.named_modules()}
    wanted = [
        (module, key, _spellings(model, f"{names[id(module)]}.{key}"))
        for module in modules
        for key, _ in module.named_parameters()
    ]
    stored = _read(folder, [spellings for _, _, spellings in wanted], device)
    for (module, key, _), tensor in zip(wanted, stored, strict=True):
        setattr(module, key, nn.Parameter(tensor.to(dtype or tensor.dtype), requires_grad=False))
    setattr(model, model.base_model_prefix, Replay(model.base_model))
    model.get_output_embeddings = lambda: layer  # its own looks into the body
    return model, norm


def final_norm(model: Any) -> nn.Module | None:
    """The norm between a model's last layer and its output layer; None where it cannot be told."""
    norms = []
    for name, module in model.base_model.named_modules():
        own = [*module.parameters(recurse=False)]
        if any(part.isdigit() for part in name.split(".")) or "embed" in f"{name}{type(module).__name__}".lower():
            continue
        if "norm" in type(module).__name__.lower():
            norms.append(module)
        elif own:
            return None
    return norms[0] if len(norms) == 1 else None


@torch.no_grad()
def probe_shell(model: Any, layer: nn.Linear) -> Found:
    """What is true of the head of such a model, told from random hidden states."""
    rng = torch.Generator().manual_seed(0)
    hidden_PD = torch.randn(8, layer.in_features, generator=rng).to(layer.weight)
    try:
        logits_PV = replayed(model, hidden_PD)
    except (TypeError, AttributeError, RuntimeError) as error:
        raise TeacherError(
            f"the head of {type(model).__name__} cannot be run apart from its body: {one_line(error)}"
        ) from None
    never_V = logits_PV.isneginf().all(0)
    some_never_V = never_V if bool(never_V.any()) else None
    post = post_of(model, layer, hidden_PD, some_never_V)
    return Found(logits_PV.shape[1], logits_PV.dtype, True, post, some_never_V)


def _spellings(model: Any, name: str) -> list[str]:
    """What a checkpoint may call a weight: its own name, what it is tied to, and both without the body's prefix."""
    tied = (model.all_tied_weights_keys or {}).get(name)
    names = [name, *([] if tied is None else [tied])]
    return [*names, *(each.removeprefix(f"{model.base_model_prefix}.") for each in names)]


def _read(folder: Path, wanted: Iterable[list[str]], device: torch.device | str) -> list[Tensor]:
    """The first of each list of names that the checkpoint holds."""
    tensors = []
    try:
        files = _files(folder)
        for spellings in wanted:
            name = next((each for each in spellings if each in files), None)
            if name is None:
                raise TeacherError(f"the checkpoint {folder} lacks {spellings[0]}, expected the weights of its head")
            with safe_open(folder / files[name], framework="pt", device=str(device)) as file:
                tensors.append(file.get_tensor(name))
    except (OSError, ValueError, KeyError, SafetensorError) as error:
        raise TeacherError(f"the head in {folder} does not load: {one_line(error)}") from None
    return tensors


def _files(folder: Path) -> dict[str, str]:
    """The file of each weight."""
    if (folder / INDEX).is_file():
        return weights_in_index(folder)
    with safe_open(folder / WHOLE, framework="pt") as file:
        return dict.fromkeys(file.keys(), WHOLE)
