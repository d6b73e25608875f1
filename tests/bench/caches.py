"""What merging caches costs beside reading and writing the same bytes.

    python -m tests.bench.caches [EXAMPLES [ROUNDS]]

Two caches of sampled records (8 certain and about 25 drawn entries at a position), on a disk. Sides, in turn in one
process, by CPU time: every file of both read and written elsewhere, the merge, and the merge with every shard decoded
and encoded again, as it is where a stamp lies among what is compressed.
"""

import shutil
import sys
import tempfile
import time
from collections.abc import Callable
from pathlib import Path
from unittest import mock

import numpy as np

import kdcache
from kdcache.store import rewrite
from kdcache.store.merge import merge

CLASSES, LENGTH = 512, 512


def make(folder: Path, examples: int, seed: int, backend: str) -> None:
    rng = np.random.default_rng(seed)
    base = rng.normal(0, 3, (LENGTH - 1, CLASSES)).astype(np.float32)
    with kdcache.CacheWriter(folder, num_classes=CLASSES, examples_per_shard=examples // 2, backend=backend) as writer:
        for _ in range(examples):
            logits = base[rng.permutation(LENGTH - 1)] + np.float32(rng.normal())
            writer.add(rng.integers(0, CLASSES, LENGTH), logits)


def copy(sources: list[Path], target: Path) -> None:
    """Read and write, nothing else."""
    for number, source in enumerate(sources):
        for path in sorted(source.rglob("*")):
            if path.is_file():
                place = target / str(number) / path.relative_to(source)
                place.parent.mkdir(parents=True, exist_ok=True)
                with place.open("wb") as file:
                    file.write(path.read_bytes())
                    file.flush()


def encoded(sources: list[Path], target: Path) -> None:
    with mock.patch.object(rewrite, "can_copy", return_value=False):
        merge(sources, target)


def cpu(work: Callable[[list[Path], Path], object], sources: list[Path], folder: Path) -> float:
    target = folder / "out"
    before = time.process_time()
    work(sources, target)
    took = time.process_time() - before
    shutil.rmtree(target)
    return took


def main(examples: int = 256, rounds: int = 3) -> None:
    sides: dict[str, Callable[[list[Path], Path], object]] = {
        "read and write": copy,
        "merge": merge,
        "encoded": encoded,
    }
    for backend in ("zarr", "arrow"):
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name)
            sources = [folder / "a", folder / "b"]
            for seed, source in enumerate(sources):
                make(source, examples, seed, backend)
            size = sum(path.stat().st_size for source in sources for path in source.rglob("*") if path.is_file())
            took = {side: [cpu(work, sources, folder) for _ in range(1)] for side, work in sides.items()}
            for _ in range(rounds - 1):
                for side, work in sides.items():
                    took[side].append(cpu(work, sources, folder))
            best = {side: float(np.median(found)) for side, found in took.items()}
            told = ", ".join(f"{side} {seconds * 1e3:.0f} ms" for side, seconds in best.items())
            ratio = best["merge"] / best["read and write"]
            print(
                f"{backend}, {size / 1e6:.1f} MB: {told}; merge / read and write {ratio:.1f}, "
                f"encoded / read and write {best['encoded'] / best['read and write']:.1f}",
                flush=True,
            )


if __name__ == "__main__":
    main(*map(int, sys.argv[1:]))
