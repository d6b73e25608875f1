"""A training loop of one's own over the public names, and a small student for it."""

from collections.abc import Sequence
from itertools import islice
from pathlib import Path
from typing import Any

import torch

import kdcache

LLAMA = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 1,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}


def train(
    cache: kdcache.Cache,
    output: Path,
    config: dict[str, Any],
    terms: Sequence[dict[str, Any]],
    *,
    steps: int,
    global_batch: int,
    learning_rate: float,
) -> list[float]:
    """The loss of each step of a student that is saved at the end."""
    student = kdcache.make_student(kdcache.StudentConfig(config=config), cache, seed=0)
    model, collate = kdcache.with_loss(student), kdcache.Collator(student, cache)
    loss_terms = kdcache.loss_terms(terms, cache)
    torch.manual_seed(0)
    optimizer = torch.optim.AdamW(model.parameters(), lr=learning_rate)
    losses = []
    with kdcache.Loader(cache, global_batch=global_batch) as loader:
        for (batch,) in islice(loader, steps):
            loss, _ = model(collate(batch), loss_terms)
            losses.append(loss.item() / batch.num_positions)
            optimizer.zero_grad()
            (loss / batch.num_positions).backward()
            optimizer.step()
    cache.save_tokenizer(output)
    student.eval().save_pretrained(output)
    return losses
