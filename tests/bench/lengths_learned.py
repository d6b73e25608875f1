"""What a student learns where examples come by length, against by chance: the same examples, start and steps.

Examples are paragraphs of the source code of Python's standard library, the words and signs of which are tokens: short
ones (imports, names) say other things than long ones, so that order matters. Held-out paragraphs are of other modules.
"""

import re
from collections import Counter
from collections.abc import Iterator
from itertools import islice
from pathlib import Path
from typing import Any

import numpy as np
import torch

import kdcache
from tests.bench.small_models import modules

__all__ = ["GROUPS", "learned"]

CLASSES, LONGEST, GLOBAL, MICRO = 1024, 128, 64, 32
GROUPS = (0, 1, 8)
"""What stream.length_groups is; 0 is by chance."""
SMALL = {"model_type": "llama", "vocab_size": CLASSES, "hidden_size": 64, "intermediate_size": 176,
         "num_hidden_layers": 2, "num_attention_heads": 2, "tie_word_embeddings": True}  # fmt: skip
RATE, EPOCHS = 2e-3, 2


def learned(folder: Path, examples: int, seeds: int) -> list[dict[str, float]]:
    """Of each seed the held-out loss, nats per position, after two epochs, by the number of groups."""
    train = [words for _, words in zip(range(examples), _paragraphs(False), strict=False)]
    counted = Counter(word for words in train for word in words)
    ids = {word: 1 + i for i, (word, _) in enumerate(counted.most_common(CLASSES - 1))}
    caches = {
        name: _cache(folder / name, paragraphs, ids)
        for name, paragraphs in {"train": train, "held-out": islice(_paragraphs(True), examples // 4)}.items()
    }
    return [
        {str(groups): _loss(caches["train"], caches["held-out"], groups, seed) for groups in GROUPS}
        for seed in range(seeds)
    ]


def _paragraphs(heldout: bool) -> Iterator[list[str]]:
    for text in modules(heldout):
        for paragraph in text.split("\n\n"):
            words = re.findall(r"\w+|[^\w\s]", paragraph)
            if len(words) > 1:
                yield words[:LONGEST]


def _cache(folder: Path, paragraphs: Any, ids: dict[str, int]) -> kdcache.Cache:
    with kdcache.CacheWriter(
        folder, record=None, num_classes=CLASSES, examples_per_shard=512, block_examples=64
    ) as writer:
        for words in paragraphs:
            writer.add(np.array([ids.get(word, 0) for word in words]))
    return kdcache.open_cache(folder)


def _loss(cache: kdcache.Cache, heldout: kdcache.Cache, groups: int, seed: int) -> float:
    student: Any = kdcache.make_student(kdcache.StudentConfig(config=SMALL), cache, seed=seed)
    model, collate = kdcache.with_loss(student), kdcache.Collator(student, cache)
    terms = kdcache.loss_terms([{"name": "cross_entropy"}], cache)
    optimizer = torch.optim.AdamW(student.parameters(), lr=RATE)
    settings = {"global_batch": GLOBAL, "micro_batch": MICRO, "seed": seed, "length_groups": groups}
    with kdcache.Loader(cache, **settings) as loader:
        steps = EPOCHS * loader.steps_per_epoch
        for number, step in enumerate(islice(loader, steps)):
            for group in optimizer.param_groups:
                group["lr"] = RATE * min(1.0, 10 * (number + 1) / steps, 1.25 * (1 - number / steps))
            positions = sum(batch.num_positions for batch in step)
            for batch in step:
                (model(collate(batch), terms)[0] / positions).backward()
            torch.nn.utils.clip_grad_norm_(student.parameters(), 1.0)
            optimizer.step()
            optimizer.zero_grad()
    total = 0.0
    with torch.no_grad():
        for first in range(0, len(heldout), MICRO):
            batch = heldout.read(first, min(first + MICRO, len(heldout)))
            total += float(model(collate(batch), terms)[0])
    return total / heldout.num_positions
