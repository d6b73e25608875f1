"""Other people's packages, pinned, in an environment of the bench's own: ~/.cache/kdcache/bench-peers (KDCACHE_HOME).

It sees the packages of the environment that runs the bench, so that torch is the same one on both sides, and adds the
peers on top of it. Several of them ask for older versions of numpy and transformers than kdcache has, and torchvision's
usual wheel brings CUDA: so they are installed without their dependencies, but for the few that they import. Where one
cannot be installed or imported, whoever compares with it gets the reason as an ImportError, and the page shows it.
"""

import json
import os
import subprocess
import sys
from dataclasses import dataclass
from functools import cache
from importlib import metadata
from pathlib import Path

__all__ = ["PINS", "Environment", "environment"]

PINS: dict[str, tuple[str, tuple[str, ...]]] = {
    "mosaicml-streaming": ("0.13.0", ("cramjam", "python-snappy", "brotli", "zstd", "catalogue", "xxhash", "boto3")),
    "litdata": ("0.2.76", ("obstore", "tifffile", "lightning-utilities", "boto3", "filelock")),
    "webdataset": ("1.0.2", ("braceexpand",)),
    "datasets": ("5.2.0", ("dill", "multiprocess", "xxhash", "pandas")),
    "trl": ("1.16.0", ("datasets",)),
    "liger-kernel": ("0.8.5", ()),
    "torchtune": ("0.6.1", ("torchao==0.10.0", "omegaconf", "torchdata==0.11.0", "sentencepiece", "tiktoken",
                            "kagglehub", "blobfile")),
}  # fmt: skip
"""Peer -> (version, what it imports besides what kdcache has; these come with their own dependencies, under the
constraint that KEPT stay as they are)."""
KEPT = ("torch", "numpy", "transformers", "tokenizers", "pyarrow", "huggingface_hub", "fsspec")


@dataclass(frozen=True)
class Environment:
    """python: its interpreter, or this one where it cannot be made. failed: peer -> why it is not there."""

    python: Path
    failed: dict[str, str]


@cache
def environment() -> Environment:
    """Made or brought up to date on first use; a peer that failed is tried again."""
    home = Path(os.environ.get("KDCACHE_HOME", Path.home() / ".cache" / "kdcache"))
    folder = home / "bench-peers"
    python, stamp = folder / "bin" / "python", folder / "installed.json"
    here = sorted({path for path in sys.path if path.endswith("site-packages") and str(folder) not in path})
    wanted = {"pins": json.loads(json.dumps(PINS)), "here": here, "kept": [_version(name) for name in KEPT]}
    known = json.loads(stamp.read_text()) if stamp.exists() else {}
    if python.exists() and known.get("wanted") == wanted and not known["failed"]:
        return Environment(python, {})
    if Path(sys.prefix) == folder:
        return Environment(python, known.get("failed", {}))
    try:
        _begin(folder, here)
    except (OSError, subprocess.CalledProcessError) as error:
        return Environment(Path(sys.executable), dict.fromkeys(PINS, f"no environment could be made: {error}"))
    failed = {name: why for name in PINS if (why := _install(folder, name)) is not None}
    stamp.write_text(json.dumps({"wanted": wanted, "failed": failed}))
    return Environment(python, failed)


def _begin(folder: Path, here: list[str]) -> None:
    words = [sys.executable, "-m", "venv", "--clear", "--without-pip", str(folder)]
    subprocess.run(words, check=True, capture_output=True)
    own = next(folder.glob("lib/python*/site-packages"))
    (own / "beside.pth").write_text("\n".join(here) + "\n")
    (folder / "kept.txt").write_text("".join(f"{name}=={version}\n" for name in KEPT if (version := _version(name))))


def _install(folder: Path, name: str) -> str | None:
    """Why it could not be installed."""
    print(f"    installing {name} into {folder}", flush=True)
    version, needs = PINS[name]
    pip = [sys.executable, "-m", "pip", "--python", str(folder / "bin" / "python"), "install", "--quiet"]
    own = ["--no-deps", f"{name}=={version}"]
    for rest in [own, ["--constraint", str(folder / "kept.txt"), *needs]] if needs else [own]:
        done = subprocess.run([*pip, *rest], capture_output=True, text=True, check=False)
        if done.returncode != 0:
            return " ".join(done.stderr.strip().splitlines()[-1:]) or f"pip ended with status {done.returncode}"
    return None


def _version(name: str) -> str | None:
    try:
        return metadata.version(name).partition("+")[0] if name != "torch" else metadata.version(name)
    except metadata.PackageNotFoundError:
        return None
