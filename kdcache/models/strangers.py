"""What a model's folder may hold before anything of it is loaded: it may come from a stranger.

Refused: files that run code when they are read (pickled weights), an adapter in the place of a model, attention that is
fetched from the hub as compiled code because config.json names it, an index of weights that points out of the folder,
and files that would not end (pipes, devices) or fill the memory. Code that comes with a model runs only where the user
said trust_remote_code, and no library asks: every loading says True or False.
"""

import json
import re
from collections.abc import Iterator
from pathlib import Path, PurePosixPath
from typing import Any

from kdcache.disk import check_regular, fault
from kdcache.errors import one_line

__all__ = ["ADAPTER", "INDEX", "check_model_files", "model_config", "weights_in_index"]

ADAPTER = "adapter_config.json"
INDEX = "model.safetensors.index.json"
PICKLED = ("*.bin", "*.pt", "*.pth", "*.ckpt", "*.pkl", "*.pickle", "*.h5", "*.msgpack")
READ = ("*.json", "*.safetensors", "*.txt", "*.model", "*.jinja")
"""Files of a model's folder that kdcache or transformers reads."""
MOST_BYTES = {"config.json": 16 << 20, "generation_config.json": 16 << 20, INDEX: 256 << 20}
MOST_OF_OTHERS = 2 << 30
LONGEST_HEADER = 100_000_000
"""Of a safetensors file, as its own library has it."""
BYTES_TO_ELEMENTS = 8
"""The most elements of a weight that a byte of a file may stand for, quantised ones too."""
SIZES = {
    "layers": ("num_hidden_layers", "n_layer", "n_layers", "num_layers"),
    "width": ("hidden_size", "n_embd", "d_model", "dim"),
    "vocabulary": ("vocab_size",),
}
HUB_KERNEL = re.compile(r"[^/:]+/[^/:]+")
KERNELS = ("attn_implementation", "experts_implementation")


def check_model_files(folder: str | Path, *, weights: bool = True, trust_remote_code: bool = False) -> None:
    """Raises ValueError, in words that follow the folder's name.

    weights: whether they will be read; a config and a tokenizer may be enough. trust_remote_code: of the user.
    """
    folder = Path(folder)
    for path in sorted({path for pattern in READ for path in folder.glob(pattern)}):
        if path.suffix != ".safetensors" or weights:
            _check_file(path)
    if (folder / ADAPTER).is_file():
        raise ValueError(
            f"it holds a PEFT adapter ({ADAPTER}), expected a whole model: load it with peft, merge_and_unload() and "
            "save_pretrained() into another folder"
        )
    pickled = sorted(path.name for pattern in PICKLED for path in folder.glob(pattern))
    if weights and pickled and not any(folder.glob("*.safetensors")):
        raise ValueError(
            f"its weights are pickled ({pickled[0]}), which may run code when they are read, expected *.safetensors: "
            "ask its author for them, or load it with transformers where you trust it, and save_pretrained() it"
        )
    if weights and (folder / INDEX).is_file():
        weights_in_index(folder)
    config = _config(folder)
    if weights:
        _check_sizes(config, sorted(folder.glob("*.safetensors")))
    if not trust_remote_code:
        for value in _kernels(config):
            raise ValueError(
                f"its config.json names the attention kernel {value}, code that would be fetched from the hub, "
                "expected sdpa or eager: remove attn_implementation from it"
            )


def model_config(folder: str | Path, *, trust_remote_code: bool = False, weights: bool = False) -> Any:
    """The transformers config of a local folder. Raises ValueError, in one line, for one that is none.

    weights: whether the weights will be read too, so that their files are looked at.
    """
    from transformers import AutoConfig

    check_model_files(folder, weights=weights, trust_remote_code=trust_remote_code)
    if not (Path(folder) / "config.json").is_file():
        raise ValueError("it has no config.json, expected one")
    try:
        return AutoConfig.from_pretrained(
            folder, trust_remote_code=trust_remote_code, local_files_only=not trust_remote_code
        )
    except Exception as error:  # transformers raises a dozen classes for a broken config
        words = one_line(error, 300)
        raise ValueError(f"its config.json is not a model config: {type(error).__name__}: {words}") from None


def weights_in_index(folder: Path) -> dict[str, str]:
    """The file of each weight, by the index of a checkpoint in several files.

    Raises ValueError for an index that is none, or that names files elsewhere.
    """
    found = _json(folder / INDEX).get("weight_map")
    if not isinstance(found, dict) or not all(isinstance(file, str) for file in found.values()):
        raise ValueError(f"its {INDEX} has no weight_map from weights to files, expected one")
    for file in {*found.values()}:
        if PurePosixPath(file).name != file or not file.endswith(".safetensors"):
            raise ValueError(f"its {INDEX} names {file[:100]!r}, expected *.safetensors files beside it")
    return found


def _check_file(path: Path) -> None:
    most = None if path.suffix == ".safetensors" else MOST_BYTES.get(path.name, MOST_OF_OTHERS)
    try:
        check_regular(path, most)
    except OSError as error:
        raise ValueError(f"its {path.name} cannot be read: {fault(error)}") from None


def _check_sizes(config: Any, files: list[Path]) -> None:
    """Raises ValueError for a config of more layers than there are weights, or of far larger ones: it would be made.

    Files that cannot be read are left to whoever loads them.
    """
    found: dict[str, int] = {}
    for value in (config, *config.values()):
        if isinstance(value, dict):
            known = {key: value[name] for key, names in SIZES.items() for name in names if name in value}
            found |= {key: size for key, size in known.items() if isinstance(size, int)}
    try:
        total = sum(path.stat().st_size for path in files)
        count = sum(_num_tensors(path) for path in files)
    except (OSError, ValueError):
        return
    elements = found.get("vocabulary", 1) * found.get("width", 1)
    if files and (found.get("layers", 0) > count or elements > BYTES_TO_ELEMENTS * total):
        said = ", ".join(f"{name} {size}" for name, size in found.items())
        raise ValueError(
            f"its config.json names larger sizes than its weights have ({said[:200]}; {count} tensors of {total:,} "
            "bytes), expected those of its weights"
        )


def _num_tensors(path: Path) -> int:
    """By the header of a safetensors file: its length in eight bytes, and JSON."""
    with path.open("rb") as file:
        length = int.from_bytes(file.read(8), "little")
        if length > min(LONGEST_HEADER, path.stat().st_size):
            raise ValueError("no header")
        return len(json.loads(file.read(length)))


def _config(folder: Path) -> dict[str, Any]:
    return _json(folder / "config.json") if (folder / "config.json").is_file() else {}


def _json(path: Path) -> dict[str, Any]:
    try:
        found = json.loads(path.read_bytes())
    except (OSError, ValueError, RecursionError) as error:
        raise ValueError(f"its {path.name} is not JSON: {one_line(error, 200)}") from None
    if not isinstance(found, dict):
        raise ValueError(f"its {path.name} is no JSON object, expected one")
    return found


def _kernels(value: Any) -> Iterator[str]:
    """What a config names under the keys of kernels, at any depth, where that is a kernel of the hub."""
    if isinstance(value, dict):
        for key, inner in value.items():
            if str(key).strip("_").removesuffix("_internal") in KERNELS:
                names = inner.values() if isinstance(inner, dict) else [inner]
                yield from (name[:100] for name in names if isinstance(name, str) and HUB_KERNEL.search(name))
            yield from _kernels(inner)
    elif isinstance(value, list):
        for inner in value:
            yield from _kernels(inner)
