"""A teacher that classifies: a row of class logits for each position, and its features if they are asked for.

Everything of a batch fits memory, so there are no blocks: logits of a sequence classification are one row per example,
those of a token classification are picked at the positions.

B examples, L tokens, P positions, C classes, D hidden width.
"""

from collections.abc import Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from inspect import signature
from typing import Any, Literal

import torch
from torch import Tensor

from kdcache.dump.engines.engine import Rows
from kdcache.dump.engines.model_engine import ModelEngine
from kdcache.dump.settings import ComputeConfig, TeacherConfig
from kdcache.dump.teacher import load_model
from kdcache.errors import TeacherError
from kdcache.launcher import World
from kdcache.models.feeding import Feeding
from kdcache.models.head import Head
from kdcache.models.head_parts import HEADS, reads_last_token
from kdcache.models.inputs import ModelInputs
from kdcache.models.loading import check_classifier, find_last_by_mask
from kdcache.targets.output_layer import OutputLayer
from kdcache.tasks import Example, Task

__all__ = ["Classifier", "load_classifier"]


def load_classifier(
    config: TeacherConfig,
    compute: ComputeConfig,
    world: World,
    *,
    task: Task,
    num_classes: int,
    features: Literal["pooled", "positions"] | None,
    vocab_size: int,
    padding: int,
    examples: Sequence[Example],
) -> "Classifier":
    """vocab_size, padding: of the tokenizer; a model without a padding token of its own gets this one. examples: some
    of the run's own, to try the model out with.

    Raises TeacherError for a model that does not load, is not trained for the task, or has other classes.
    """
    model, device = load_model(config, compute, world, task)
    task.check_teacher(model.config, num_classes)
    if model.config.num_labels != num_classes:
        raise TeacherError(f"got a teacher of {model.config.num_labels} classes, expected {num_classes} (task.labels)")
    if getattr(model.config, "pad_token_id", None) is None:
        if reads_last_token(model):
            find_last_by_mask(model)
        else:
            model.config.pad_token_id = padding
    classifier = Classifier(model, device, num_classes, features)
    if features is not None and not classifier.head.shows_states:
        raise TeacherError(
            f"got a record of features at {features} and a teacher, {type(model).__name__}, with neither a body (its "
            f"base_model_prefix) nor a head called {' or '.join(HEADS)}, expected one of them"
        )
    try:
        with classifier.hidden_states() as seen:
            check_classifier(model, task, num_classes, vocab_size, classifier.feeding, examples)
    except ValueError as error:
        raise TeacherError(f"the teacher {config.path} cannot be used: {error}") from None
    if seen and seen[0].shape[-1] != (width := model.config.get_text_config().hidden_size):
        raise TeacherError(
            f"got {type(model).__name__}, whose head is fed with {seen[0].shape[-1]} numbers, expected the {width} of "
            "its config's hidden_size"
        )
    return classifier


class Classifier(ModelEngine):
    """`rows` as Teacher has it, in one block. hidden states: the features, None where none are asked for."""

    def __init__(
        self, model: Any, device: torch.device, num_classes: int, features: Literal["pooled", "positions"] | None = None
    ) -> None:
        self.model, self.device, self.num_classes = model, device, num_classes
        self.head = Head(model, probed=False)
        self.feeding = Feeding.of(model, "full", types=_takes_types(model))
        self._features = features

    @torch.inference_mode()
    def rows(self, inputs: ModelInputs, flat_P: Tensor, *, transient: bool = False) -> Iterator[Rows]:
        """(all of the P positions, float32 logits [P, C], features [P, D] or None), once, in memory of their own."""
        arguments, flat_P = inputs.to(self.device).arguments, flat_P.to(self.device)
        with self.hidden_states() as seen:
            logits = self.model(**arguments).logits
        length = arguments["input_ids"].shape[1]
        logits_PC = logits[flat_P // length] if logits.ndim == 2 else logits.flatten(0, 1)[flat_P]
        hidden_PD = self._picked(seen[0], logits, arguments, flat_P) if seen else None
        yield slice(0, len(flat_P)), logits_PC.float(), hidden_PD

    def output_layer(self) -> OutputLayer:
        """None: its few logits are kept as they are."""
        raise TeacherError(
            f"got {type(self.model).__name__}, a classifier, for a factored record, expected a dense one"
        )

    def hidden_states(self) -> AbstractContextManager[list[Tensor]]:
        """What the body hands over while this lasts; nothing where no features are asked for."""
        return nullcontext([]) if self._features is None else self.head.handed_over()

    def _picked(self, hidden: Tensor, logits: Tensor, arguments: dict[str, Tensor], flat_P: Tensor) -> Tensor:
        """The features of the positions, or of their whole examples. hidden: [B, L, D], or [B, D]."""
        if hidden.ndim == 2 or self._features == "positions":
            return self.head.at_positions(hidden, logits, arguments["input_ids"], flat_P)
        mask_BL = arguments["attention_mask"]
        weights_BL1 = mask_BL[:, :, None].to(hidden.dtype)
        return ((hidden * weights_BL1).sum(1) / weights_BL1.sum(1))[flat_P // mask_BL.shape[1]]


def _takes_types(model: Any) -> bool:
    """Whether a user's call of this model on what its tokenizer gives would feed it token types."""
    kinds = getattr(model.config, "type_vocab_size", None)
    return "token_type_ids" in signature(model.forward).parameters and (kinds is None or kinds > 1)
