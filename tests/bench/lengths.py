"""How much of a micro-batch is padding where examples are ragged, in the order that the loader gives."""

import tempfile
from itertools import islice
from pathlib import Path

import numpy as np

import kdcache
from tests.bench.part import Part, Rows
from tests.bench.scene import texts
from tests.bench.tables import table

EXAMPLES, CLASSES = 4096, 64
MICRO = (8, 16, 32, 64)
WHAT = {
    "documents": "paragraphs of Python's documentation, words for tokens, one document each",
    "chats": "made-up lengths, log-normal, median 180",
    "classification": "5 to 40 tokens",
}


def run(quick: bool) -> Rows:
    rng = np.random.default_rng(0)
    documents = [len(part.split()) + 2 for text in texts() for part in text.split("\n\n") if part.strip()]
    lengths = {
        "documents": rng.choice(documents, EXAMPLES),
        "chats": np.clip(np.exp(rng.normal(5.2, 0.8, EXAMPLES)), 4, 2048).astype(int),
        "classification": rng.integers(5, 41, EXAMPLES),
    }
    rows: Rows = {}
    with tempfile.TemporaryDirectory() as name:
        for kind, of_kind in lengths.items():
            cache = _cache(Path(name) / kind, kind, of_kind[: EXAMPLES // 8 if quick else EXAMPLES])
            rows[kind] = {str(micro): _padding(cache, micro) for micro in MICRO}
    return rows


def _cache(folder: Path, kind: str, lengths: np.ndarray) -> kdcache.Cache:
    """Without records: lengths alone matter."""
    one = kind == "classification"
    task = {"task": {"name": "sequence_classification"}, "labels": ["a", "b"]} if one else {}
    classes = 2 if one else CLASSES
    with kdcache.CacheWriter(folder, num_classes=classes, record=None, examples_per_shard=256, **task) as writer:
        for length in lengths.tolist():
            tokens = np.zeros(length, np.int64)
            writer.add(tokens, labels=np.zeros(1, np.int64) if one else None)
    return kdcache.open_cache(folder)


def _padding(cache: kdcache.Cache, micro: int) -> float:
    """Tokens of the micro-batches with their padding, over tokens, in one epoch."""
    padded = tokens = 0
    with kdcache.Loader(cache, global_batch=64, micro_batch=micro, seed=0) as loader:
        for step in islice(loader, loader.steps_per_epoch):
            for batch in step:
                padded += len(batch) * max(len(batch.tokens(index)) for index in range(len(batch)))
                tokens += batch.num_tokens
    return padded / tokens


def render(rows: Rows) -> str:
    lines = [
        [f"{kind}: {WHAT[kind]}", *(f"{found[str(micro)]:.2f}" for micro in MICRO)] for kind, found in rows.items()
    ]
    return (
        "Tokens of a forward pass, padding and all, for each token of the examples; global batches of 64, the loader's "
        "usual settings.\n\n" + table(["examples", *(f"micro-batches of {micro}" for micro in MICRO)], lines)
    )


PART = Part(name="lengths", title="Lengths: how much of a micro-batch is padding", minutes=1, run=run, render=render)
