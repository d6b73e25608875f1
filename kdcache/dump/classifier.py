"""A teacher that classifies: a row of class logits for each position, and its features if they are asked for.

Everything of a batch fits memory, so there are no blocks: logits of a sequence classification are one row an example,
those of a token classification are picked at the positions.

B examples, L tokens, P positions, C classes, D hidden width.
"""

from collections.abc import Iterator
from typing import Any, Literal

import torch
from torch import Tensor

from kdcache.config import ComputeConfig, TeacherConfig
from kdcache.dump.ranks import Rank
from kdcache.dump.teacher import Teacher, load_model
from kdcache.errors import TeacherError
from kdcache.tasks.inputs import ModelInputs, takes_segments

__all__ = ["AnyTeacher", "Classifier", "load_classifier"]


def load_classifier(
    config: TeacherConfig,
    compute: ComputeConfig,
    rank: Rank,
    *,
    task: str,
    num_classes: int,
    features: Literal["pooled", "positions"] | None,
) -> "Classifier":
    """Raises TeacherError for a model that does not load, is not trained for the task, or has other classes."""
    model, device = load_model(config, compute, rank, task)
    if model.config.num_labels != num_classes:
        raise TeacherError(f"got a teacher of {model.config.num_labels} classes, expected {num_classes} (task.labels)")
    return Classifier(model, device, num_classes, features)


class Classifier:
    """`rows` as Teacher has it, in one block. hidden states: the features, None where none are asked for."""

    flatten = False

    def __init__(
        self, model: Any, device: torch.device, num_classes: int, features: Literal["pooled", "positions"] | None = None
    ) -> None:
        self.model, self.device, self.num_classes = model, device, num_classes
        self.pad, self.segments = model.config.pad_token_id or 0, takes_segments(model)
        self._features = features

    @torch.inference_mode()
    def rows(self, inputs: ModelInputs, flat_P: Tensor) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
        """(all of the P positions, float32 logits [P, C], features [P, D] or None), once."""
        arguments, flat_P = inputs.to(self.device).arguments, flat_P.to(self.device)
        caught: list[Tensor] = []
        hook = None
        if self._features is not None:
            body = getattr(self.model, self.model.base_model_prefix)
            hook = body.register_forward_hook(lambda module, given, output: caught.append(output[0]))
        try:
            logits = self.model(**arguments).logits
        finally:
            if hook is not None:
                hook.remove()
        length = arguments["input_ids"].shape[1]
        logits_PC = logits[flat_P // length] if logits.ndim == 2 else logits.flatten(0, 1)[flat_P]
        hidden_PD = None
        if caught:
            hidden_PD = self._picked(caught[0], arguments["attention_mask"], flat_P)
        yield slice(0, len(flat_P)), logits_PC.float(), hidden_PD

    def _picked(self, hidden_BLD: Tensor, mask_BL: Tensor, flat_P: Tensor) -> Tensor:
        if self._features == "positions":
            return hidden_BLD.flatten(0, 1)[flat_P]
        weights_BL1 = mask_BL[:, :, None].to(hidden_BLD.dtype)
        pooled_BD = (hidden_BLD * weights_BL1).sum(1) / weights_BL1.sum(1)
        return pooled_BD[flat_P // mask_BL.shape[1]]


AnyTeacher = Teacher | Classifier
