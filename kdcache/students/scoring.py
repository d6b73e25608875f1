"""Held-out figures of a student, from a cache whose teacher is not needed any more.

Each rank has one stretch of the cache (held_out.py). Under ZeRO-3 every forward gathers weights on all ranks, so all
run the same number of them; a rank without a batch runs one example with nothing supervised.
"""

from collections.abc import Callable, Iterator
from typing import Any

import numpy as np
import torch

from kdcache.errors import CacheError, StudentError
from kdcache.launcher import World
from kdcache.losses.metrics import Sums
from kdcache.models.modes import evaluating
from kdcache.progress import say
from kdcache.store.batch import Batch
from kdcache.store.cache import Cache
from kdcache.store.manifest import Header
from kdcache.students.held_out import HeldOut, held_out_batches
from kdcache.students.loss import with_loss
from kdcache.students.making import check_fits
from kdcache.students.same_tokenizer import check_same_tokenizer
from kdcache.students.trial import find_neighbours
from kdcache.tasks import task_of
from kdcache.tasks.metrics import Predictions

__all__ = [
    "EVALUATION_TEMPERATURE",
    "check_held_out",
    "evaluate_engine",
    "evaluate_model",
    "evaluate_whole",
    "teacher_predictions",
]

EVALUATION_TEMPERATURE = 1.0


def evaluate_model(
    model: Any,
    cache: Cache,
    *,
    batch_examples: int = 8,
    max_examples: int | None = None,
    temperature: float = EVALUATION_TEMPERATURE,
    chunk: int = 1024,
    progress: Callable[[int], None] = lambda examples: None,
) -> dict[str, float]:
    """Score a plain transformers model on a held-out cache, on the model's own device and in one process.

    Args:
        model: A model of the cache's task, such as `make_student` gives.
        cache: The text, and the teacher's records to compare with.
        batch_examples: Examples per forward pass.
        max_examples: How many of the cache's examples are read; None for all.
        temperature: The temperature of the KL to the teacher.
        chunk: For how many positions the output layer holds logits at one time.
        progress: Called with the number of examples after each batch.

    Returns:
        The means of `kdcache.losses.metrics.Sums`, in nats per position, by name. Beside them perplexity for a language
        model, and the scores of the task for any other.

    Raises:
        StudentError: The model does not fit the cache, or what it says is not a number.
        ConfigError: The cache's records do not answer this temperature.
    """
    return evaluate_whole(
        model,
        cache,
        batch_examples=batch_examples,
        max_examples=max_examples,
        temperature=temperature,
        chunk=chunk,
        progress=progress,
    )[0]


def evaluate_whole(
    model: Any,
    cache: Cache,
    *,
    batch_examples: int,
    max_examples: int | None = None,
    temperature: float = EVALUATION_TEMPERATURE,
    chunk: int = 1024,
    progress: Callable[[int], None] = lambda examples: None,
) -> tuple[dict[str, float], Predictions | None]:
    """The figures of `evaluate_model`, and of a classification the predictions that they are of."""
    check_fits(model, cache)
    if (found := find_neighbours(model, cache, batch_examples)).batch is not None:
        say(
            f"{type(model).__name__} gives an example other logits beside others in its batch ({found.batch}): it is "
            "scored on one after the other"
        )
        batch_examples = 1
    device = next(model.parameters()).device
    wrapped = with_loss(model, chunk=chunk)
    batches = held_out_batches(cache, World(), model, batch_examples, max_examples)
    return _figures(wrapped, batches, cache, World(), device, temperature, progress)


def evaluate_engine(
    engine: Any,
    cache: Cache,
    world: World,
    device: torch.device,
    *,
    batch_examples: int = 8,
    max_examples: int | None = None,
    progress: Callable[[int], None] = lambda examples: None,
) -> dict[str, float]:
    """The same figures of the model inside an engine that wraps it, over all ranks; every rank calls it."""
    batches = held_out_batches(cache, world, engine.module.student, batch_examples, max_examples)
    return _figures(engine, batches, cache, world, device, EVALUATION_TEMPERATURE, progress)[0]


def check_held_out(held_out: Cache, cache: Cache) -> None:
    """Raises CacheError when a held-out cache does not go with the training cache."""
    theirs, ours = held_out.manifest.header, cache.manifest.header
    if (theirs.task["name"], theirs.id2label) != (ours.task["name"], ours.id2label):
        raise CacheError(
            f"eval.cache {held_out.root.url} is of {_task(theirs)}, expected {_task(ours)} as {cache.root.url}: "
            "dump it with the same task and task.labels"
        )
    if theirs.num_classes != ours.num_classes:
        raise CacheError(
            f"eval.cache {held_out.root.url} has {theirs.num_classes} classes, expected the {ours.num_classes} of "
            f"{cache.root.url}: dump it with the same tokenizer"
        )
    if held_out.num_positions == 0:
        raise CacheError(f"eval.cache {held_out.root.url} has no supervised position, expected at least one")
    check_same_tokenizer(held_out, cache)


def _task(header: Header) -> str:
    names = ", ".join(header.class_names)
    return f"{header.task['name']} ({names})" if names else str(header.task["name"])


def teacher_predictions(cache: Cache, batch_examples: int = 256) -> Predictions:
    """What the teacher of a classification's cache says of its positions."""
    parts, task = [], task_of(cache.manifest.header.task)
    for start in range(0, len(cache), batch_examples):
        batch = cache.read(start, min(start + batch_examples, len(cache)))
        outputs_PC = task.teacher_outputs(batch.targets()).numpy()
        parts.append(Predictions(outputs_PC, batch.labels, starts_of(batch)))
    return Predictions.concat(parts)


def starts_of(batch: Batch) -> np.ndarray:
    """Whether each position is the first of a row of text, bool [P]."""
    counts_B = batch.arrays["position_counts"].astype(np.int64)
    starts_P = np.zeros(batch.num_positions, bool)
    firsts_B = counts_B.cumsum() - counts_B
    starts_P[firsts_B[~batch.continues & (counts_B > 0)]] = True
    return starts_P


@torch.no_grad()
def _figures(
    model: Any,
    batches: Iterator[HeldOut],
    cache: Cache,
    world: World,
    device: torch.device,
    temperature: float,
    progress: Callable[[int], None],
) -> tuple[dict[str, float], Predictions | None]:
    header = cache.manifest.header
    task = task_of(header.task)
    vector = torch.zeros(len(Sums.names), dtype=torch.float64, device=device)
    parts: list[tuple[np.ndarray, Predictions]] = []
    with evaluating(model):
        for held_out in batches:
            batch = held_out.batch
            found = model(held_out.inputs.to(device), temperature=temperature)
            if task.generates:
                vector += found
            else:
                vector += found[0]
                if batch is not None:
                    outputs_PC = task.outputs(found[1]).cpu().numpy()
                    parts.append((held_out.examples_P, Predictions(outputs_PC, batch.labels, starts_of(batch))))
            progress(0 if batch is None else len(batch))
    sums = Sums(world.sum(vector))
    means, whole = sums.means(), None
    if not task.generates:
        every = [part for of_rank in world.all(parts) for part in of_rank]
        order = np.argsort(np.concatenate([examples_P for examples_P, _ in every]), kind="stable")
        whole = Predictions.concat([part for _, part in every]).take(order)
    if not sums.are_numbers or (whole is not None and np.isnan(whole.outputs_PC).any()):
        raise StudentError(
            f"what the student says of {cache.root.url} is not a number at some positions, expected finite logits at "
            "all: its training went wrong, or its numbers are too large for its dtype"
        )
    return task.figures(means, whole, header.class_names), whole
