"""What checking a shard costs beside loading it: sha256, decoding, and the checks of stamp and content.

    python tests/bench/integrity.py [--positions 400000]

Sampled records of a language model with 32 entries at a position, and dense records of 2,000 classes, on both backends;
medians of 9 rounds, alternating. Figures in RESULTS.md.
"""

import argparse
import hashlib
import statistics
import time
from collections.abc import Callable

import numpy as np

from kdcache.store.backend import backend, check_arrays, level_sizes
from kdcache.store.content import content_fault
from kdcache.store.manifest import Header
from kdcache.store.schema import task_fields
from kdcache.targets.dense import Dense
from kdcache.targets.kind import RecordKind
from kdcache.targets.sampled import Sampled
from kdcache.tasks import task_of

CLASSES, LENGTH, ENTRIES = 49_152, 1024, 32


def shard(kind: RecordKind, classes: int, positions: int) -> tuple[Header, dict[str, np.ndarray]]:
    """Arrays of plausible ranges: examples of LENGTH tokens, one document each."""
    rng = np.random.default_rng(0)
    fields = task_fields(task_of({}), CLASSES, classes, (kind,))
    header = Header(
        task={"name": "causal_lm", "attention": "document"}, records=(kind,), num_classes=classes, fields=fields
    )
    B = max(1, positions // (LENGTH - 1))
    P = B * (LENGTH - 1)
    arrays = {
        "token_counts": np.full(B, LENGTH, np.uint32),
        "document_counts": np.ones(B, np.uint32),
        "position_counts": np.full(B, LENGTH - 1, np.uint32),
        "entry_counts": np.full(P, ENTRIES, np.uint32),
        "tokens": (classes * rng.random(B * LENGTH) ** 4).astype(np.uint16),
        "document_lengths": np.full(B, LENGTH, np.uint32),
        "positions": np.tile(np.arange(LENGTH - 1, dtype=np.uint32), B),
    }
    sizes = {"token": B * LENGTH, "document": B, "position": P, "entry": P * ENTRIES}
    for field in fields:
        if field.name not in arrays:
            shape = (sizes[field.level], *field.shape)
            limit = {"ids": classes, "num_certain": 9}.get(field.name, 500)
            arrays[field.name] = (limit * rng.random(shape, np.float32) ** 3).astype(field.dtype)
    if "ids" not in arrays:
        arrays.pop("entry_counts")
    check_arrays(fields, arrays)
    return header, arrays


def timed(work: Callable[..., object], *arguments: object) -> float:
    start = time.perf_counter()
    work(*arguments)
    return time.perf_counter() - start


def main() -> None:
    parser = argparse.ArgumentParser(description=__doc__)
    parser.add_argument("--positions", type=int, default=400_000)
    positions = parser.parse_args().positions
    for name, kind, classes, count in (
        ("sampled", Sampled(samples=30), CLASSES, positions),
        ("dense", Dense(), 2_000, positions // 20),
    ):
        header, arrays = shard(kind, classes, count)
        sizes = level_sizes(header.fields, arrays)
        for store in ("zarr", "arrow"):
            data = backend(store).encode(header.fields, arrays, {"unit": 0})
            decoded, _ = backend(store).decode(header.fields, data, sizes)
            assert content_fault(header, decoded) is None
            parts: dict[str, list[float]] = {"sha256": [], "decode": [], "check": []}
            for _ in range(9):
                parts["sha256"].append(timed(hashlib.sha256, data))
                parts["decode"].append(timed(backend(store).decode, header.fields, data, sizes))
                parts["check"].append(timed(content_fault, header, decoded))
            sha, decode, check = (statistics.median(times) for times in parts.values())
            megabytes = sum(array.nbytes for array in arrays.values()) / 1e6
            print(
                f"{name} {store}: {megabytes:.0f} MB of arrays in {len(data) / 1e6:.0f} MB; sha256 {sha * 1e3:.0f} ms, "
                f"decoding {decode * 1e3:.0f} ms, checking {check * 1e3:.1f} ms: {check / (sha + decode):.1%} of both"
            )


if __name__ == "__main__":
    main()
