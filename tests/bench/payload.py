"""The same records in everybody's format: kdcache's three, and one blob of bytes for each example elsewhere.

long    windows of 256 tokens with the default record of 4,096 classes, about 120 B per position
short   texts of 5 to 40 tokens with four classes each

The logits are made up, with a few sure rows and many unsure ones. A blob is the example's arrays one after the other
behind their lengths: what it costs to take apart is small (`unpack`), and no peer has to serialise arrays its own way.
"""

import subprocess
import sys
from collections.abc import Iterator
from pathlib import Path
from typing import Any

import numpy as np

import kdcache

__all__ = ["make_caches", "pack_all", "schema_of", "unpack"]

CLASSES, LENGTH = 4096, 256
OTHERS = ("arrow", "parquet")
Schema = list[tuple[str, list[int]]]
"""dtype and further dimensions of each array."""


def make_caches(folder: Path, kind: str, examples: int) -> dict[str, kdcache.Cache]:
    """Backend -> the same cache."""
    (_long if kind == "long" else _short)(folder / "zarr", examples)
    for name in OTHERS:
        words = [sys.executable, "-m", "kdcache", "convert", str(folder / "zarr"), str(folder / name), "--to", name]
        subprocess.run(words, check=True, capture_output=True)
    return {name: kdcache.open_cache(folder / name) for name in ("zarr", *OTHERS)}


def _long(folder: Path, examples: int) -> None:
    import torch

    rng = np.random.default_rng(0)
    noise = torch.randn(200 * CLASSES, generator=torch.Generator().manual_seed(0))
    slope_V = -1.1 * torch.arange(1, CLASSES + 1).log()
    with kdcache.CacheWriter(folder, num_classes=CLASSES, examples_per_shard=512) as writer:
        for _ in range(examples):
            rows = noise.as_strided((LENGTH, CLASSES), (CLASSES // 2, 1), int(rng.integers(70 * CLASSES)))
            sure_P1 = torch.from_numpy(rng.choice([1.0, 2.0, 4.0], (LENGTH, 1), p=[0.5, 0.3, 0.2]).astype(np.float32))
            order = torch.from_numpy(rng.permutation(CLASSES))
            logits_PV = (rows + slope_V[order]) * sure_P1
            tokens = (CLASSES * rng.random(LENGTH) ** 4).astype(np.int64)
            writer.add(tokens, logits_PV[:-1])


def _short(folder: Path, examples: int) -> None:
    rng = np.random.default_rng(1)
    task, labels = {"name": "sequence_classification"}, ["news", "sports", "trade", "other"]
    with kdcache.CacheWriter(folder, num_classes=4, task=task, labels=labels, examples_per_shard=8192) as writer:
        for _ in range(examples):
            tokens = (30_000 * rng.random(int(rng.integers(5, 41))) ** 3).astype(np.int64)
            writer.add(tokens, rng.normal(size=(1, 4)).astype(np.float32), labels=rng.integers(0, 4, 1))


def schema_of(cache: kdcache.Cache) -> Schema:
    return [(array.dtype.str, list(array.shape[1:])) for array in cache.read(0, 1).arrays.values()]


def pack_all(cache: kdcache.Cache) -> Iterator[bytes]:
    """One blob for each example."""
    for shard in range(len(cache.shard_examples)):
        batch = cache.read_shard(shard)
        for index in range(len(batch)):
            arrays = batch.slice(index, index + 1).arrays.values()
            lengths = np.array([len(array) for array in arrays], np.uint32)
            yield lengths.tobytes() + b"".join(array.tobytes() for array in arrays)


def unpack(schema: Any, blob: bytes) -> list[np.ndarray]:
    """The arrays of an example, as views."""
    lengths = np.frombuffer(blob, np.uint32, len(schema)).tolist()
    at, arrays = 4 * len(schema), []
    for (dtype, shape), length in zip(schema, lengths, strict=True):
        count = length
        for size in shape:
            count *= size
        array = np.frombuffer(blob, dtype, count, at)
        at += array.nbytes
        arrays.append(array.reshape(length, *shape) if shape else array)
    return arrays
