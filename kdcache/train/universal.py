"""A checkpoint for another world size: DeepSpeed's conversion to a universal one, in a process of its own.

    OUTPUT/.kdcache/universal/1b2c3d4e/step-00000500/    sealed like a checkpoint, deleted when it is loaded

`python -m kdcache.train.universal SOURCE TARGET PID` is that process: about 3 s for a small model. It loads tensors and
plain values only, and writes below TARGET only: DeepSpeed makes folders of the parameters' names, as the checkpoint
has them. On Linux it ends with the rank that started it, whose pid it is told. A conversion is never used again; what a
kill left of one is deleted before the next.
"""

import argparse
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

from kdcache.errors import one_line
from kdcache.train.ancestors import end_with_parent
from kdcache.train.sealed import seal
from kdcache.train.unpickling import only_weights, what_it_would_run

__all__ = ["HOLDS_CODE", "convert"]

HOLDS_CODE = "it holds code"
"""How the fault of a checkpoint that would have run something begins."""


def convert(source: Path, target: Path) -> str | None:
    """Make a universal checkpoint of a checkpoint. Returns what went wrong, if anything did."""
    target.parent.mkdir(parents=True, exist_ok=True)
    command = [sys.executable, "-m", "kdcache.train.universal", str(source), str(target), str(os.getpid())]
    environment = {k: v for k, v in os.environ.items() if k not in ("RANK", "WORLD_SIZE", "LOCAL_RANK")}
    done = subprocess.run(command, capture_output=True, text=True, env=environment, check=False)
    return (done.stderr.strip().splitlines() or ["no message"])[-1] if done.returncode else None


def main(source: str, target: str, parent: str) -> int:
    end_with_parent(int(parent))
    import torch
    from deepspeed.checkpoint import ds_to_universal

    load = torch.load

    def checked_load(*arguments: Any, **settings: Any) -> Any:
        found = load(*arguments, **settings)
        check_names(found)
        return found

    torch.load = checked_load
    settings = argparse.Namespace(
        input_folder=source,
        output_folder=target,
        num_extract_workers=1,
        num_merge_workers=1,
        keep_temp_folder=False,
        strict=True,
        inject_missing_state=False,
    )
    try:
        with only_weights():
            ds_to_universal.main(settings)
        seal(Path(target), {}, {})
    except Exception as error:  # a dozen classes, by which file is damaged and where
        ran = what_it_would_run(str(error))
        print(f"{HOLDS_CODE} ({ran})" if ran else f"{type(error).__name__}: {one_line(error, 200)}", file=sys.stderr)
        return 1
    return 0


def check_names(found: Any, depth: int = 8) -> None:
    """Raises ValueError for a name in a file that would lead out of a folder of that name."""
    if depth and isinstance(found, dict):
        for name, value in found.items():
            if isinstance(name, str) and (name.startswith("/") or ".." in name.split("/") or "\0" in name):
                raise ValueError(f"got a parameter named {name!r}, expected a name")
            check_names(value, depth - 1)
    elif depth and isinstance(found, list | tuple):
        for value in found:
            check_names(value, depth - 1)


if __name__ == "__main__":
    sys.exit(main(*sys.argv[1:]))
