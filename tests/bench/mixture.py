"""What loading a mixture of two caches costs, beside one cache of as many examples: CPU time of all threads.

    PYTHONPATH=tests python tests/bench/mixture.py [--examples 2048] [--rounds 6]

Top-k records of 20 entries at each of 255 positions of an example. One cache, two of half its size with equal weights,
and the same two with weights 9 and 1 are loaded in turn, two epochs each, with memory for the blocks in use alone.
"""

import argparse
import statistics
import tempfile
import time
from pathlib import Path

import numpy as np

import kdcache

RECORD = {"kind": "top_k", "k": 20}


def main() -> None:
    parser = argparse.ArgumentParser()
    for name, default in {"examples": 2048, "rounds": 6}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    with tempfile.TemporaryDirectory() as folder:
        one, first, second = (
            written(Path(folder, str(seed)), options.examples // (1 if seed == 0 else 2), seed) for seed in range(3)
        )
        ways = {
            "even": kdcache.Mixture([(first, 1), (second, 1)]),
            "9 to 1": kdcache.Mixture([(first, 9), (second, 1)]),
        }
        ratios: dict[str, list[float]] = {name: [] for name in ways}
        for _ in range(options.rounds):
            alone = cost(one)
            for name, mixture in ways.items():
                ratios[name].append(cost(mixture) / alone)
    for name, found in ratios.items():
        print(f"{name:<8} {statistics.median(found):.2f} of one cache ({min(found):.2f}–{max(found):.2f})")


def written(path: Path, examples: int, seed: int) -> kdcache.Cache:
    rng = np.random.default_rng(seed)
    logits_PV = rng.normal(size=(255, 64)).astype(np.float32)
    with kdcache.CacheWriter(path, num_classes=64, record=RECORD, examples_per_shard=512) as writer:
        for _ in range(examples):
            tokens = rng.integers(0, 64, 256)
            writer.add(tokens, np.roll(logits_PV, int(tokens[0]), 1))
    return kdcache.open_cache(path)


def cost(cache: kdcache.Cache | kdcache.Mixture) -> float:
    """Seconds of CPU for two epochs."""
    with kdcache.Loader(cache, global_batch=64, lanes=64, memory_gb=0.15) as loader:
        next(loader)
        begin = time.process_time()
        for _ in range(2 * loader.steps_per_epoch):
            next(loader)
        return time.process_time() - begin


if __name__ == "__main__":
    main()
