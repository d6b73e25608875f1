"""What a result was measured on: processor, memory, system, versions, the state of the code."""

import os
import platform
import subprocess
from importlib import metadata
from pathlib import Path

__all__ = ["REPO", "commit", "hardware", "versions"]

REPO = Path(__file__).parents[2]
OURS = ("torch", "numpy", "numba", "zarr", "pyarrow", "transformers", "deepspeed")


def hardware() -> str:
    """One line: cores, processor, memory, system, and a GPU if torch sees one."""
    import psutil

    lines = Path("/proc/cpuinfo").read_text().splitlines() if Path("/proc/cpuinfo").exists() else []
    facts = {key.strip(): value.strip() for key, _, value in (line.partition(":") for line in lines)}
    model = facts.get("model name", platform.processor())
    if "cpu family" in facts:
        flags = facts.get("flags", "").split()
        vectors = "AVX-512" if "avx512f" in flags else "AVX2" if "avx2" in flags else "no AVX2"
        model += f" (family {facts['cpu family']}, model {facts['model']}, {vectors})"
    cores = len(os.sched_getaffinity(0)) if hasattr(os, "sched_getaffinity") else os.cpu_count()
    return f"{cores} cores of {model}, {psutil.virtual_memory().total / 1e9:.0f} GB, {platform.system()}{_gpu()}"


def _gpu() -> str:
    import torch

    return f", {torch.cuda.get_device_name()}" if torch.cuda.is_available() else ""


def versions(*more: str) -> dict[str, str]:
    """Of Python, of what kdcache stands on, and of these distributions, where they are installed."""
    found = {"python": platform.python_version()}
    for name in (*OURS, *more):
        try:
            found[name] = metadata.version(name)
        except metadata.PackageNotFoundError:
            continue
    return found


def commit() -> str:
    """The commit of the checkout, with a plus if files differ from it."""
    try:
        words = ["git", "-C", str(REPO), "describe", "--always", "--abbrev=10", "--exclude=*", "--dirty=+"]
        return subprocess.run(words, capture_output=True, text=True, check=True).stdout.strip()
    except (OSError, subprocess.CalledProcessError):
        return "unknown"
