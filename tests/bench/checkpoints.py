"""What the digests of a checkpoint cost: python tests/bench/checkpoints.py [FOLDER]

Saves of the files of a 9M-parameter student with its AdamW state in float32 (37 MB of weights, 111 MB of the
optimizer's), written and fsynced, in turn and in one process: with SHA-256; with torch's own CRC32 in its place, as
torch.save does it; with neither. Then the check of a load. FOLDER is on the disk to be measured, by default here.

It needs two idle cores: on a busy machine the digests cost their time, 0.6 s per GB of a core. `chrt -r 50` before the
command takes two from whoever has them. Measured so on 2 cores of an AMD EPYC with SHA instructions, 2026-11-26:
CRC32 0.14–0.16 s, neither 0.09–0.13 s, SHA-256 0.12–0.14 s: 13–16% less than with the CRC32 that it replaces, 7–28%
more than with neither. The check of a load reads 2.0 GB/s.
"""

import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path
from typing import Any

import torch

from kdcache.train import checkpoint_engine
from kdcache.train.checkpoint_engine import CheckpointFiles, DigestedFile
from kdcache.train.sealed import FileSeal, faults, read_seal, seal

ROUNDS = 12


def no_digest(self: DigestedFile, path: Path) -> FileSeal:
    return FileSeal(bytes=0, sha256="")


def states() -> dict[str, dict[str, torch.Tensor]]:
    shapes = {"embedding": (16_384, 256), "body": (1_240, 4_096)}
    weights = {name: torch.randn(shape) for name, shape in shapes.items()}
    moments = {f"{kind}.{name}": torch.randn(shape) for kind in "mvw" for name, shape in shapes.items()}
    return {"mp_rank_00_model_states.pt": weights, "zero_pp_rank_0_mp_rank_00_optim_states.pt": moments}


def save(folder: Path, state: dict[str, dict[str, torch.Tensor]]) -> tuple[float, dict[Path, FileSeal]]:
    for path in folder.iterdir():
        path.unlink()
    files = CheckpointFiles()
    started = time.perf_counter()
    for name, content in state.items():
        files.save(content, str(folder / name))
    seals = files.seals()
    return time.perf_counter() - started, seals


def main() -> None:
    torch.manual_seed(0)
    state = states()
    size = sum(value.nbytes for content in state.values() for value in content.values())
    with tempfile.TemporaryDirectory(dir=sys.argv[1] if len(sys.argv) > 1 else ".") as name:
        folder = Path(name)
        follow, without_crc32 = DigestedFile._follow, checkpoint_engine.without_crc32
        ways: dict[str, tuple[Any, Any]] = {
            "CRC32": (no_digest, nullcontext),
            "neither": (no_digest, without_crc32),
            "SHA-256": (follow, without_crc32),
        }
        seconds: dict[str, list[float]] = {way: [] for way in ways}
        save(folder, state)
        for _ in range(ROUNDS):
            for way, parts in ways.items():
                DigestedFile._follow, checkpoint_engine.without_crc32 = parts  # type: ignore[method-assign]
                took, seals = save(folder, state)
                seconds[way].append(took)
        middle = {way: statistics.median(took) for way, took in seconds.items()}
        for way, took in seconds.items():
            print(f"{way:8} {middle[way]:.3f} s ({size / middle[way] / 1e6:,.0f} MB/s), best {min(took):.3f} s")
        for way in ("CRC32", "neither"):
            print(f"SHA-256 against {way}: {middle['SHA-256'] / middle[way] - 1:+.1%} of saving {size / 1e6:.0f} MB")
        seal(folder, {}, {path.relative_to(folder).as_posix(): entry for path, entry in seals.items()})
        started = time.perf_counter()
        assert not faults(folder, (entries := read_seal(folder)[1]), entries)
        took = time.perf_counter() - started
        print(f"checking it before a load: {took:.3f} s ({size / took / 1e6:,.0f} MB/s)")


if __name__ == "__main__":
    main()
