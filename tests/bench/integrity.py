"""What checking a shard costs beside loading it: sha256, decoding, and the checks of content.

Sampled records of a language model with 32 entries at a position, and dense records of 2,000 classes, on all backends;
medians of rounds, alternating.

Against the state before these checks (2026-11-26, alternated twice, processor time) whole loading takes .96 times as
long on Zarr and 1.05 times on Arrow, whose lists are compared with each other now.
"""

import hashlib
import statistics
import time
from collections.abc import Callable

import numpy as np

from kdcache.store.backend import Part as FilePart
from kdcache.store.backend import backend, check_arrays, level_sizes
from kdcache.store.content import content_fault
from kdcache.store.manifest import Header
from kdcache.store.schema import task_fields
from kdcache.targets.dense import Dense
from kdcache.targets.kind import RecordKind
from kdcache.targets.sampled import Sampled
from kdcache.tasks import task_of
from tests.bench.part import Part, Rows
from tests.bench.tables import figure, table

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
    start = time.process_time()
    work(*arguments)
    return time.process_time() - start


def run(quick: bool) -> Rows:
    positions, rounds = (40_000, 3) if quick else (400_000, 9)
    rows = []
    for name, kind, classes, count in (
        ("sampled", Sampled(samples=30), CLASSES, positions),
        ("dense", Dense(), 2_000, positions // 20),
    ):
        header, arrays = shard(kind, classes, count)
        megabytes = sum(array.nbytes for array in arrays.values()) / 1e6
        rows += [{"name": f"{name}, {store}", "arrays": megabytes, **parts_of(header, arrays, store, rounds)}
                 for store in ("zarr", "arrow", "parquet")]  # fmt: skip
    return {"rows": rows}


def parts_of(header: Header, arrays: dict[str, np.ndarray], store: str, rounds: int) -> Rows:
    """Median milliseconds of each part of loading; MB of the file."""
    sizes = level_sizes(header.fields, arrays)
    data = backend(store).encode(header.fields, [arrays], {"unit": 0})
    ((start, size),) = backend(store).layout(header.fields, data).blocks
    block = FilePart(start, memoryview(data)[start : start + size])
    decoded, _ = backend(store).decode(header.fields, block, None, sizes)
    assert content_fault(header, decoded) is None
    parts: dict[str, list[float]] = {"sha256": [], "decode": [], "check": []}
    for _ in range(rounds):
        parts["sha256"].append(timed(hashlib.sha256, data))
        parts["decode"].append(timed(backend(store).decode, header.fields, block, None, sizes))
        parts["check"].append(timed(content_fault, header, decoded))
    return {"file": len(data) / 1e6, **{part: 1e3 * statistics.median(times) for part, times in parts.items()}}


def render(rows: Rows) -> str:
    lines = [
        [row["name"], f"{row['arrays']:.0f} MB", f"{row['file']:.0f} MB", figure(row["sha256"]), figure(row["decode"]),
         figure(row["check"]), f"{row['check'] / (row['sha256'] + row['decode']):.1%}"]
        for row in rows["rows"]
    ]  # fmt: skip
    return (
        "Checking is of everything that a reader relies on: ranges of tokens, ids and labels, positions, documents, "
        "NaN. Milliseconds of CPU for a shard.\n\n"
        + table(["records, backend", "arrays", "file", "sha256", "decoding", "checking", "of loading"], lines)
    )


PART = Part(name="integrity", title="What checking a shard costs", minutes=2, run=run, render=render)
