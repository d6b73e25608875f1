"""How much of a micro-batch is padding where examples are ragged, and what that costs a training step.

By chance: the global batches of the loader, each cut into micro-batches in an order by chance. Sorted: as the loader
cuts them. Grouped: with stream.length_groups of 1. Steps are whole ones, forward, backward and AdamW on labels, in one
thread; every side takes an epoch of the same examples, in turn in one process. What a student learns meanwhile is in
lengths_learned.py.
"""

import statistics
import tempfile
from collections.abc import Callable, Iterator
from functools import partial
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kdcache
from tests.bench.lengths_learned import GROUPS, learned
from tests.bench.part import Part, Rows
from tests.bench.scene import texts
from tests.bench.tables import figure, spread, table
from tests.bench.timing import against, interleaved

EXAMPLES, CLASSES, GLOBAL = 4096, 64, 64
MICRO = (8, 16, 32)
WHAT = {
    "documents": "paragraphs of Python's documentation, words for tokens, one document each",
    "chats": "made-up lengths, log-normal, median 180",
    "classification": "5 to 40 tokens",
}
WAYS = {"by chance": 0, "sorted": 0, "grouped": 1}
SMALL = {"hidden_size": 128, "intermediate_size": 384, "num_hidden_layers": 4, "num_attention_heads": 4}
STUDENTS: dict[str, dict[str, Any]] = {
    "a BERT tagger, lines of Python's documentation": {"model_type": "bert", "max_position_embeddings": 256},
    "a Llama, paragraphs of it as documents": {"model_type": "llama", "tie_word_embeddings": True},
}
Step = Callable[[], None]


def run(quick: bool) -> Rows:
    torch.set_num_threads(1)
    rng = np.random.default_rng(0)
    lengths = {
        "documents": rng.choice(_words("\n\n"), EXAMPLES),
        "chats": np.clip(np.exp(rng.normal(5.2, 0.8, EXAMPLES)), 4, 2048).astype(int),
        "classification": rng.integers(5, 41, EXAMPLES),
    }
    rows: Rows = {"padding": {}, "steps": {}}
    with tempfile.TemporaryDirectory() as name:
        for kind, of_kind in lengths.items():
            task = "sequence_classification" if kind == "classification" else "causal_lm"
            cache = _cache(Path(name) / kind, task, of_kind[: EXAMPLES // 8 if quick else EXAMPLES])
            rows["padding"][kind] = {way: {str(micro): _padding(cache, micro, way) for micro in MICRO} for way in WAYS}
        rows["steps"] = {student: _steps(Path(name), student, quick) for student in STUDENTS}
        rows["learned"] = learned(Path(name), 256 if quick else EXAMPLES, 2 if quick else 4)
    return rows


def _words(separator: str) -> list[int]:
    parts = [part for text in texts() for part in text.split(separator) if part.strip()]
    return [len(part.split()) + 2 for part in parts]


def _cache(folder: Path, task: str, lengths: np.ndarray) -> kdcache.Cache:
    """Without records: lengths and labels alone matter."""
    rng, language = np.random.default_rng(1), task == "causal_lm"
    settings: dict[str, Any] = {} if language else {"labels": ["a", "b"], "task": {"name": task}}
    sizes = {"num_classes": CLASSES if language else 2, "examples_per_shard": 256, "block_examples": 64}
    with kdcache.CacheWriter(folder, record=None, **sizes, **settings) as writer:
        for length in lengths.tolist():
            tokens = rng.integers(5, CLASSES, length)
            count = length if task == "token_classification" else 1
            labels = None if language else rng.integers(0, 2, count)
            positions = np.arange(length) if task == "token_classification" else None
            writer.add(tokens, labels=labels, positions=positions)
    return kdcache.open_cache(folder)


def _loader(cache: kdcache.Cache, micro: int, way: str) -> kdcache.Loader:
    return kdcache.Loader(cache, global_batch=GLOBAL, micro_batch=micro, seed=0, length_groups=WAYS[way])


def _epoch(cache: kdcache.Cache, micro: int, way: str) -> Iterator[list[kdcache.Batch]]:
    rng = np.random.default_rng(0)
    with _loader(cache, GLOBAL if way == "by chance" else micro, way) as loader:
        for step in islice(loader, loader.steps_per_epoch):
            if way == "by chance":
                yield [step[0].take(part) for part in rng.permutation(GLOBAL).reshape(-1, micro)]
            else:
                yield step


def _padding(cache: kdcache.Cache, micro: int, way: str) -> float:
    """Tokens of the micro-batches with their padding, over tokens, in one epoch."""
    padded = tokens = 0
    for step in _epoch(cache, micro, way):
        padded += sum(len(batch) * int(batch.lengths.max()) for batch in step)
        tokens += sum(batch.num_tokens for batch in step)
    return padded / tokens


def _steps(folder: Path, student: str, quick: bool) -> Rows:
    rng, config = np.random.default_rng(2), {**STUDENTS[student], **SMALL, "vocab_size": CLASSES}
    tagger = config["model_type"] == "bert"
    lengths = np.clip(rng.choice(_words("\n" if tagger else "\n\n"), GLOBAL * (2 if quick else 8)), 4, 256)
    task = "token_classification" if tagger else "causal_lm"
    cache = _cache(folder / config["model_type"], task, lengths)
    sides = {f"{way}, {micro}": _epochs(cache, config, micro, way) for micro in (8, 32) for way in WAYS}
    return interleaved(sides, 1 if quick else 4)


def _epochs(cache: kdcache.Cache, config: dict[str, Any], micro: int, way: str) -> Step:
    """A student that takes all steps of an epoch at each call."""
    student: Any = kdcache.make_student(kdcache.StudentConfig(config=config), cache, seed=0)
    model, collate = kdcache.with_loss(student), kdcache.Collator(student, cache)
    terms = kdcache.loss_terms([{"name": "cross_entropy"}], cache)
    optimizer = torch.optim.AdamW(student.parameters(), lr=1e-4)
    steps = partial(_epoch, cache, micro, way)

    def epoch() -> None:
        for step in steps():
            positions = sum(batch.num_positions for batch in step)
            for batch in step:
                (model(collate(batch), terms)[0] / positions).backward()
            optimizer.step()
            optimizer.zero_grad()

    return epoch


def render(rows: Rows) -> str:
    lines = [
        [f"{kind}: {WHAT[kind]}", way, *(f"{found[way][str(micro)]:.2f}" for micro in MICRO)]
        for kind, found in rows["padding"].items()
        for way in WAYS
    ]
    steps = []
    for student, times in rows["steps"].items():
        for side, row in times.items():
            way, micro = side.split(", ")
            base = times[f"by chance, {micro}"]
            if "failed" in row or "failed" in base:
                steps.append([student, micro, way, f"not run: {row.get('failed', '')}", ""])
            else:
                steps.append([student, micro, way, figure(statistics.median(row["cpu"])), spread(against(row, base))])
    return (
        "Tokens of a forward pass, padding and all, for each token of the examples; one rank, global batches of 64, "
        "blocks of 64 examples.\n\n"
        + table(["examples", "order", *(f"micro-batches of {micro}" for micro in MICRO)], lines)
        + "\n\nAn epoch of steps (forward, backward, AdamW; 4 layers of width 128, float32, one thread), the loader's "
        "time counted.\n\n"
        + table(["student", "micro-batches of", "order", "CPU s", "ratio to by chance"], steps)
        + f"\n\nA Llama of .2M parameters after two epochs of {EXAMPLES:,} paragraphs of source code, on labels, in "
        f"global batches of 64 and as many steps, {len(rows['learned'])} seeds of start and order. Differences are "
        "inside a seed, ± their standard error.\n\n"
        + table(["stream.length_groups", "held-out loss, nats", "above chance"], _of_learned(rows["learned"]))
    )


def _of_learned(seeds: list[dict[str, float]]) -> Iterator[list[str]]:
    for groups in map(str, GROUPS):
        apart = [seed[groups] - seed["0"] for seed in seeds]
        error = statistics.stdev(apart) / len(apart) ** 0.5
        mean = statistics.mean(seed[groups] for seed in seeds)
        yield [groups, f"{mean:.3f}", "–" if groups == "0" else f"{statistics.mean(apart):+.4f} ± {error:.4f}"]


PART = Part(
    name="lengths",
    title="Lengths: how much of a micro-batch is padding, and what that costs a step",
    minutes=8,
    run=run,
    render=render,
)
