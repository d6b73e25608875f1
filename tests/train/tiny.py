"""A tiny cache of random logits and a tiny student, for the tests of this folder and the program they launch."""

from pathlib import Path
from typing import Any

import numpy as np

from kdcache import CacheWriter
from kdcache.targets.sampled import Sampled
from kdcache.train.settings import TrainConfig

CLASSES = 300


def write_cache(
    path: Path, *, examples: int = 48, classes: int = CLASSES, seed: int = 0, unsupervised: float = 0.0, **settings: Any
) -> Path:
    """Ragged examples of one or two documents with ragged loss masks. unsupervised: share of empty ones."""
    rng = np.random.default_rng(seed)
    record = settings.pop("record", Sampled(exact_top_k=8))
    with CacheWriter(path, num_classes=classes, record=record, examples_per_shard=8, **settings) as writer:
        for _ in range(examples):
            documents = rng.integers(2, 12, size=rng.integers(1, 3))
            tokens = rng.integers(0, classes, size=documents.sum())
            inside = np.delete(np.arange(documents.sum()), np.cumsum(documents) - 1)
            count = 0 if rng.random() < unsupervised else rng.integers(1, len(inside) + 1)
            positions = np.sort(rng.choice(inside, size=count, replace=False))
            logits = rng.normal(0, 3, size=(len(positions), classes)).astype(np.float32)
            writer.add(tokens, None if record is None else logits, positions=positions, documents=documents)
    return path


def student_config(**changes: Any) -> dict[str, Any]:
    return {
        "model_type": "llama",
        "vocab_size": CLASSES,
        "hidden_size": 32,
        "intermediate_size": 64,
        "num_hidden_layers": 2,
        "num_attention_heads": 4,
        "num_key_value_heads": 2,
        "max_position_embeddings": 64,
        "tie_word_embeddings": True,
        "initializer_range": 0.2,
    } | changes


def dropping_student() -> dict[str, Any]:
    return {"config": student_config(attention_dropout=0.2)}


def stream_of(stage: int) -> dict[str, int]:
    """The runs of stage 2 have batches by length: a group for each of a rank's two micro-batches."""
    return {"lanes": 4, "length_groups": 2, "length_blocks": 2} if stage == 2 else {"lanes": 4}


def train_settings(cache: Path, output: Path, /, *, stage: int = 1, **changes: Any) -> dict[str, Any]:
    """Settings of a run. A large eps, so that a gradient of a wrong scale makes a wrong step."""
    return {
        "cache": str(cache),
        "output": str(output),
        "student": {"config": student_config()},
        "deepspeed": {"zero_optimization": {"stage": stage, "sub_group_size": 10_000}},
        "terms": [{"name": "divergence", "weight": 0.7}, {"name": "cross_entropy", "weight": 0.3}],
        "global_batch": 8,
        "micro_batch": 2,
        "steps": 6,
        "optimizer": {"learning_rate": 0.02, "eps": 0.01, "clip_norm": 1.0},
        "schedule": {"kind": "cosine", "warmup_steps": 2},
        "stream": {"lanes": 4},
        "checkpoint": {"every": 0},
        "log_every": 1,
        "device": "cpu",
    } | changes


def train_config(cache: Path, output: Path, /, *, stage: int = 1, **changes: Any) -> TrainConfig:
    return TrainConfig.model_validate(train_settings(cache, output, stage=stage, **changes))
