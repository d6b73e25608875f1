"""A smaller model from some of a model's layers: a student that starts near its teacher.

Embeddings, final norm and head are copied; the chosen layers follow each other in their old order. The small model is
made from the shortened config and takes the renamed weights, so layer numbers inside it are its own. Works for models
with one list of num_hidden_layers layers: Llama, Qwen, Gemma (model.layers), GPT-2 (transformer.h), BERT
(encoder.layer). Not for encoder-decoders, nor where a layer's maths depends on its number in a way that no list in the
config says: the cut model is compared with the teacher, whose other layers are skipped, before it is written.
"""

import copy
import shutil
from collections.abc import Sequence
from pathlib import Path
from typing import Any

import torch
from torch import Tensor, nn

from kdcache.errors import ConfigError, TeacherError, one_line
from kdcache.models.hub import model_folder
from kdcache.models.loading import load_whole
from kdcache.models.saving import write_model
from kdcache.models.strangers import model_config
from kdcache.owned.folder import Owner, abandon, check_output, claim, read_owner, scratch
from kdcache.owned.lock import hold
from kdcache.owned.model import faults, move_into
from kdcache.tasks.tokenizer import tokenizer_files

__all__ = ["cut"]

NUMBERED = ("mlp_only_layers", "moe_layers")
"""Settings of a model config that list layers by their numbers."""
FIRST_SO_MANY = ("first_k_dense_replace", "num_dense_layers")
"""Settings of a model config that say how many of the first layers are of another kind."""


def cut(
    teacher_path: str | Path,
    layers: Sequence[int],
    out: str | Path,
    *,
    trust_remote_code: bool = False,
    force: bool = False,
) -> Path:
    """Write a model of these layers, counted from 0, with the teacher's tokenizer; returns its folder.

    teacher_path: a folder, or the name of a model on the hub. trust_remote_code: whether code that comes with it may
    run. force: write into a folder that is not ours, in which somebody writes, or which holds another model, whose
    files are replaced.

    Raises ConfigError for layers that are not ascending or not there, or whose maths depends on their number, or an out
    folder that is not new, LockedError where somebody writes there, TeacherError when there is no such model or it
    cannot be cut.
    """
    source, target = (
        model_folder(teacher_path, what="teacher", error=TeacherError, trust_remote_code=trust_remote_code),
        Path(out),
    )
    if not (source / "config.json").is_file():
        raise TeacherError(f"got teacher {source}, expected a folder with config.json and model.safetensors")
    check_output(target, "model", setting="--out", inputs={"TEACHER": [source]}, force=force)
    made_of = {"teacher": str(source), "layers": [*layers]}
    if (target / "config.json").exists() and not force and not _is_whole(target, made_of):
        raise ConfigError(f"got --out {target}, which holds a model already; expected a new folder, or --force")
    teacher = _load(source, trust_remote_code)
    total = teacher.config.get_text_config().num_hidden_layers
    _check_layers(layers, total)
    prefix = layer_list(teacher, total)
    held = hold(target, "cut", force=force)
    try:
        claim(target, "model", setting="--out", force=force)
        made = scratch(target, "model")
        shutil.rmtree(made, ignore_errors=True)
        _write(teacher, source, prefix, layers, made, trust_remote_code)
        move_into(made, target, Owner("model", config=made_of))
    except BaseException:
        shutil.rmtree(scratch(target, "model"), ignore_errors=True)
        held.release()
        abandon(target)
        raise
    held.release()
    return target


def _is_whole(target: Path, made_of: dict[str, Any]) -> bool:
    """Whether it is the model of these layers, no file of which was touched: making it again then loses nothing."""
    owner = read_owner(target)
    return owner is not None and owner.config == made_of and not faults(target)


def _write(teacher: Any, source: Path, prefix: str, layers: Sequence[int], made: Path, trust_remote_code: bool) -> None:
    """The cut model with the teacher's tokenizer, compared with the teacher."""
    try:
        write_model(
            shortened(teacher.config, layers),
            renumbered(teacher.state_dict(), prefix, layers),
            made,
            dtype=teacher.dtype,
            like=teacher,
        )
    except (ValueError, RuntimeError) as error:
        raise TeacherError(f"{source} cannot be cut: {one_line(error, 300)}") from None
    teacher.config.use_cache = False
    check_same_maths(teacher, _load(made, trust_remote_code), prefix, layers)
    for file in tokenizer_files(source):
        copy = made / file.relative_to(source)
        copy.parent.mkdir(exist_ok=True)
        shutil.copy2(file, copy)


def _load(source: Path, trust_remote_code: bool) -> Any:
    import transformers

    try:
        config = model_config(source, trust_remote_code=trust_remote_code)
        architecture = (config.architectures or ["AutoModelForCausalLM"])[0]
        model_class = getattr(transformers, architecture, transformers.AutoModelForCausalLM)
        return load_whole(model_class, source, dtype="auto", trust_remote_code=trust_remote_code)
    except Exception as error:
        words = one_line(error)
        raise TeacherError(f"the teacher {source} does not load: {type(error).__name__}: {words}") from None


@torch.no_grad()
def check_same_maths(teacher: Any, student: Any, prefix: str, layers: Sequence[int]) -> None:
    """Raises ConfigError where a layer gives other numbers in its new place, as one does that divides by its number.

    The teacher runs with its other layers skipped, the cut model as it is, on tokens enough to leave a sliding window.
    What comes after each kept layer has to be the same in both. Raises TeacherError where one cannot be run so.
    """
    ids_1L = torch.arange(_probe_length(teacher.config.get_text_config()))[None] % 29 + 1
    try:
        expected = _after_each(teacher, ids_1L, prefix, layers)
        got = _after_each(student, ids_1L, prefix, range(len(layers)))
    except Exception as error:
        raise TeacherError(
            f"got a {type(teacher).__name__}, which cannot be run with some layers skipped ({type(error).__name__}): "
            "nothing tells whether its cut is right; expected a decoder or an encoder of like layers"
        ) from None
    for number, (layer, first, second) in enumerate(zip((*layers, None), got, expected, strict=True)):
        if not torch.allclose(first, second, rtol=1e-2, atol=1e-2 * float(second.abs().max())):
            which = "the head" if layer is None else f"layer {layer}"
            place = "" if layer is None else f" as layer {number}"
            raise ConfigError(
                f"got {which} of a {type(teacher).__name__}{place}, where it gives other numbers: its maths depends on "
                "its number or on how many layers there are (see the model's config); keep the layers before it too"
            )


def _after_each(model: Any, ids_1L: Tensor, prefix: str, kept: Sequence[int]) -> list[Tensor]:
    """Hidden states after each kept layer and what the model gives at last, the other layers skipped."""
    found: list[Tensor] = []

    def keep(module: nn.Module, given: Any, named: Any, output: Any) -> None:
        found.append(output[0] if isinstance(output, tuple) else output)

    def skip(module: nn.Module, given: Any, named: Any, output: Any) -> Any:
        hidden = given[0] if given else named["hidden_states"]
        return (hidden, *output[1:]) if isinstance(output, tuple) else hidden

    stack = model.get_submodule(prefix)
    assert isinstance(stack, nn.ModuleList)
    hooks = [
        layer.register_forward_hook(keep if number in kept else skip, with_kwargs=True)
        for number, layer in enumerate(stack)
    ]
    try:
        found.append(model.eval()(input_ids=ids_1L)[0])
    finally:
        for hook in hooks:
            hook.remove()
    return [states.float() for states in found]


def _probe_length(config: Any) -> int:
    """More tokens than a sliding window or a chunk of attention holds, where the model has one, up to 1,024."""
    names = ("sliding_window", "attention_chunk_size", "window_size")
    windows = [value for name in names if isinstance(value := getattr(config, name, None), int)]
    longest = getattr(config, "max_position_embeddings", None) or 1024
    return min(16 + max(windows, default=0), longest, 1024)


def _check_layers(layers: Sequence[int], total: int) -> None:
    if not layers:
        raise ConfigError(f"got no layer, expected some of 0 to {total - 1}")
    for layer in layers:
        if not 0 <= layer < total:
            raise ConfigError(f"got layer {layer}, expected layers from 0 to {total - 1}: the teacher has {total}")
    if [*layers] != sorted(set(layers)):
        raise ConfigError(f"got layers {','.join(map(str, layers))}, expected ascending ones without repeats")


def layer_list(model: nn.Module, total: int) -> str:
    """Name of the list of layers. Raises TeacherError when there is not exactly one of that length."""
    names = [name for name, m in model.named_modules() if isinstance(m, nn.ModuleList) and len(m) == total]
    outer = [name for name in names if not any(name.startswith(f"{other}.") for other in names)]
    if len(outer) != 1:
        raise TeacherError(
            f"got a {type(model).__name__} with {len(outer)} lists of {total} layers ({', '.join(outer) or 'none'}), "
            "expected one: this architecture cannot be cut"
        )
    return outer[0]


def shortened(config: Any, layers: Sequence[int]) -> Any:
    """The config of a model of these layers.

    Lists with an item for each layer lose the others, lists of layers' numbers get the new ones, and of "the first so
    many layers" those that are kept count.
    """
    short = copy.deepcopy(config)
    text = short.get_text_config()
    total, new = text.num_hidden_layers, {layer: number for number, layer in enumerate(layers)}
    for key, value in vars(text).copy().items():
        if key in NUMBERED and isinstance(value, list):
            setattr(text, key, [new[layer] for layer in value if layer in new])
        elif "layer" in key and isinstance(value, list) and len(value) == total:
            setattr(text, key, [value[layer] for layer in layers])
    for key in FIRST_SO_MANY:
        if isinstance(getattr(text, key, None), int):
            setattr(text, key, sum(layer < getattr(text, key) for layer in layers))
    text.num_hidden_layers = len(layers)
    return short


def renumbered(weights: dict[str, Tensor], prefix: str, layers: Sequence[int]) -> dict[str, Tensor]:
    """The weights of these layers, numbered from 0, and all weights outside the list of layers."""
    number = {str(layer): str(new) for new, layer in enumerate(layers)}
    kept = {}
    for name, weight in weights.items():
        if not name.startswith(f"{prefix}."):
            kept[name] = weight
            continue
        layer, _, rest = name.removeprefix(f"{prefix}.").partition(".")
        if layer in number:
            kept[f"{prefix}.{number[layer]}.{rest}"] = weight
    return kept
