"""What the digests of a checkpoint cost: python tests/bench/checkpoints.py [FOLDER]

Saves of the files of a 9M-parameter student with its AdamW state in float32 (36 MB of weights, 110 MB of the
optimizer's), written and fsynced, in turn and in one process: with digests, and without them as torch.save does it,
which takes a CRC32 that the digests make needless; then the check of a load. The ratio is what a checkpoint's digests
cost. It needs two idle cores. FOLDER is on the disk to be measured, by default here.
"""

import statistics
import sys
import tempfile
import time
from contextlib import nullcontext
from pathlib import Path

import torch

from kdcache.train import checkpoint_engine
from kdcache.train.checkpoint_engine import CheckpointFiles, DigestedFile, without_crc32
from kdcache.train.sealed import FileSeal, faults, read_seal, seal

ROUNDS = 30


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
        follow, seconds = DigestedFile._follow, {"with": [], "without": []}
        save(folder, state)
        for _ in range(ROUNDS):
            DigestedFile._follow = no_digest  # type: ignore[method-assign]
            checkpoint_engine.without_crc32 = nullcontext  # type: ignore[assignment]
            seconds["without"].append(save(folder, state)[0])
            DigestedFile._follow = follow  # type: ignore[method-assign]
            checkpoint_engine.without_crc32 = without_crc32  # type: ignore[assignment]
            took, seals = save(folder, state)
            seconds["with"].append(took)
        for kind, took in seconds.items():
            middle = statistics.median(took)
            print(f"{kind:8} digests: {middle:.3f} s ({size / middle / 1e6:,.0f} MB/s), best {min(took):.3f} s")
        ratio = statistics.median(seconds["with"]) / statistics.median(seconds["without"])
        best = min(seconds["with"]) / min(seconds["without"])
        print(f"the digests cost {ratio - 1:+.1%} of saving {size / 1e6:.0f} MB (best against best {best - 1:+.1%})")
        seal(folder, {}, {path.relative_to(folder).as_posix(): entry for path, entry in seals.items()})
        started = time.perf_counter()
        assert not faults(folder, (entries := read_seal(folder)[1]), entries)
        took = time.perf_counter() - started
        print(f"checking it before a load: {took:.3f} s ({size / took / 1e6:,.0f} MB/s)")


if __name__ == "__main__":
    main()
