"""Whether a student can be trained and scored in batches, and on packed examples, found out on the cache's first ones.

A student whose logits depend on an example's neighbours would be trained on something else than it is used as.
"""

from collections.abc import Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import torch

from kdcache.errors import KdcacheError, StudentError
from kdcache.models.inputs import flattens, max_length
from kdcache.models.neighbours import Findings, find_feeding, may_be_packed
from kdcache.store.cache import Cache
from kdcache.students.collate import feeding_of
from kdcache.tasks import Example, task_of

__all__ = ["check_neighbours", "find_neighbours", "first_examples"]

FIRST = 64
"""Examples to choose from."""
ROOM = 1.5
"""Bytes of free GPU memory for a byte of weights, to check a student there."""


def first_examples(cache: Cache) -> list[Example]:
    batch = cache.read(0, min(FIRST, len(cache)))
    return [
        Example(batch.tokens(i), places, np.zeros_like(places), batch.documents(i), types=batch.types(i))
        for i in range(len(batch))
        if len(places := batch.positions(i))
    ]


def check_neighbours(student: Any, cache: Cache, *, batch_examples: int, device: str = "cpu") -> None:
    """batch_examples: the most of a forward pass, in training and evaluation. device: "cuda" tries it there if it fits.

    Raises StudentError for a student that is not trained as it is used.
    """
    with _on(student, device):
        found = find_neighbours(student, cache, batch_examples)
    if found.batch is not None:
        raise StudentError(
            f"{type(student).__name__} gives an example other logits beside others in its batch ({found.batch}), "
            "expected the same as alone: set micro_batch: 1 and eval.batch_examples: 1, or take another student"
        )


def find_neighbours(student: Any, cache: Cache, batch_examples: int) -> Findings:
    """What neighbours in a batch do to it. Raises StudentError where those in a packed example do something."""
    examples, task = first_examples(cache), cache.manifest.header.task
    longest = max((len(example.tokens) for example in examples), default=1)
    longest = task.get(task_of(task).length_setting, longest)
    packed = may_be_packed(task, examples)
    try:
        found = find_feeding(
            student,
            feeding_of(student, cache),
            examples,
            longest=min(longest, max_length(student.config) or longest),
            batch_examples=batch_examples,
            packed=packed,
        )
    except KdcacheError as error:
        raise StudentError(f"the student cannot be used: {error}") from None
    if found.packing is not None:
        hint = "dump with task.packing: documents or task.attention: causal for it"
        if flattens(student, "document"):
            hint += ", or set attention_implementation: sdpa"
        raise StudentError(
            f"{type(student).__name__} does not keep packed documents apart ({found.packing}), expected of each what "
            f"it is alone: {hint}"
        )
    return found


@contextmanager
def _on(student: Any, device: str) -> Iterator[None]:
    """On the GPU while this lasts, where it has the room."""
    size = sum(p.numel() * p.element_size() for p in student.parameters())
    if device != "cuda" or torch.cuda.mem_get_info()[0] < ROOM * size:
        yield
        return
    student.to(torch.device("cuda", torch.cuda.current_device()))
    try:
        yield
    finally:
        student.to("cpu")
