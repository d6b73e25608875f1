"""Collator: a Batch of a cache -> the tensors of one forward pass of a student.

B examples, L tokens (padded to the longest), P positions of all examples.
"""

from dataclasses import dataclass, replace
from typing import Any, cast

import torch
from torch import Tensor

from kdcache.errors import StudentError
from kdcache.losses.supervision import Supervision
from kdcache.models.feeding import Feeding
from kdcache.models.inputs import (
    Attention,
    ModelInputs,
    at_last,
    flat_positions,
    max_length,
    takes_types,
)
from kdcache.store.batch import Batch
from kdcache.store.cache import Cache
from kdcache.targets.moving import moved
from kdcache.targets.packing import Packed
from kdcache.tasks import Task, task_of

__all__ = ["Collator", "Inputs", "attention_of", "check_length", "feeding_of", "feeds_types"]


@dataclass(frozen=True)
class Inputs:
    """The tensors of one forward pass of a student.

    Attributes:
        model: The arguments of the model's forward.
        flat_P: Where the supervised positions are among the B·L tokens, int64.
        supervision: What the rows that the task makes of the outputs at the positions are compared with; the teacher's
            records as they are stored, until they are first asked for.
        real_BL: False for padding, bool.
        task: The task of the cache.
    """

    model: ModelInputs
    flat_P: Tensor
    supervision: Supervision
    real_BL: Tensor
    task: Task

    def to(self, device: torch.device | str, non_blocking: bool = False) -> "Inputs":
        """All of it on a device; to another than the CPU in one copy of as few bytes as it takes, to be decoded there.

        Args:
            device: Where to.
            non_blocking: Return before the copies are done, where they come from pinned memory.
        """
        there: Inputs
        if torch.device(device).type == "cpu" or self.flat_P.device.type != "cpu":
            there = moved(
                self, lambda tensor: tensor.to(device, non_blocking=non_blocking), lambda basis: basis.to(device)
            )
        else:
            there = Packed.of(self).to(device)
        return there

    def pin_memory(self) -> "Inputs | Packed":
        """All of it in one run of pinned memory, from where `to` copies beside other work; itself where no GPU is.

        torch's DataLoader calls this with pin_memory=True.
        """
        return Packed.of(self, pin=True) if torch.accelerator.is_available() else self

    def decoded(self) -> "Inputs":
        """The same with the teacher's records decoded where they are, as the loss would do when it first needs them."""
        records = self.supervision.targets
        return self if records is None else replace(self, supervision=replace(self.supervision, records=records))

    def at_positions(self, values: Tensor) -> Tensor:
        """Rows of [B, L, …] at the positions, [P, …]; of [B, …], one row per example, those of their examples."""
        if values.ndim == 2:
            return values[self.flat_P // self.model.arguments["input_ids"].shape[1]]
        return values.flatten(0, 1)[self.flat_P]

    def at_last(self, values: Tensor, pad: int | None) -> Tensor:
        """Rows of [B, L, …] at the last token of each position's example, [P, …]. pad: the model's padding token."""
        return at_last(values, self.model.arguments["input_ids"], pad, self.flat_P)

    def without_positions(self) -> "Inputs":
        """The same tokens with nothing supervised: for a rank that has run out of batches."""
        return replace(self, flat_P=self.flat_P[:0], supervision=self.supervision[:0])


class Collator:
    """Makes the tensors of a forward pass of a batch: collator(batch) -> Inputs.

    A call raises StudentError for an example that is too long for the student.

    Args:
        student: The model that will be fed, such as `make_student` gives.
        cache: The cache that the batches come from.
    """

    def __init__(self, student: Any, cache: Cache) -> None:
        self.student, self.feeding = student, feeding_of(student, cache)
        self.task = task_of(cache.manifest.header.task)

    def __call__(self, batch: Batch) -> Inputs:
        examples = range(len(batch))
        tokens = [batch.tokens(i) for i in examples]
        longest = max(map(len, tokens))
        check_length(self.student, longest)
        documents = [batch.documents(i) for i in examples]
        return Inputs(
            self.feeding.inputs(tokens, documents, [batch.types(i) for i in examples]),
            flat_positions([batch.positions(i) for i in examples], longest),
            Supervision.of(batch, self.task),
            torch.arange(longest) < torch.tensor([*map(len, tokens)])[:, None],
            self.task,
        )


def attention_of(cache: Cache) -> Attention:
    """How packed documents see each other; the cache pins it for teacher and student."""
    return cast(Attention, task_of(cache.manifest.header.task).attention)


def feeding_of(student: Any, cache: Cache) -> Feeding:
    """How a student of this cache is fed."""
    return Feeding.of(student, attention_of(cache), types=feeds_types(student, cache))


def feeds_types(student: Any, cache: Cache) -> bool:
    """Whether a student of this cache is fed token types: where the tokenizer gives them and they mean something."""
    return takes_types(student) and any(field.name == "token_types" for field in cache.manifest.header.fields)


def check_length(student: Any, longest: int) -> None:
    """Raises StudentError when an example of so many tokens does not fit."""
    limit = max_length(student.config)
    if limit is not None and longest > limit:
        raise StudentError(
            f"got a student of {limit} positions (max_position_embeddings), expected at least {longest}, "
            "the length of the cache's examples"
        )
