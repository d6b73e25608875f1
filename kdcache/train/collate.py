"""A Batch of a cache -> the tensors of one forward pass.

B examples, L tokens (padded to the longest), P positions of all examples.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.losses.supervision import Supervision
from kdcache.store.batch import Batch
from kdcache.tasks.inputs import Attention, ModelInputs, flat_positions, model_inputs

__all__ = ["Inputs", "collate"]


@dataclass(frozen=True)
class Inputs:
    """flat_P: where the supervised positions are among the B·L tokens, int64."""

    model: ModelInputs
    flat_P: Tensor
    supervision: Supervision

    def to(self, device: torch.device | str) -> "Inputs":
        return Inputs(self.model.to(device), self.flat_P.to(device), self.supervision.to(device))

    def without_positions(self) -> "Inputs":
        """The same tokens with nothing supervised: for a rank that has run out of batches."""
        return Inputs(self.model, self.flat_P[:0], self.supervision[:0])


def collate(batch: Batch, attention: Attention, flatten: bool = False) -> Inputs:
    """flatten: one row, see `kdcache.tasks.inputs.flattens`."""
    examples = range(len(batch))
    tokens = [batch.tokens(i) for i in examples]
    label_logits = batch.label_logits
    return Inputs(
        model_inputs(tokens, [batch.documents(i) for i in examples], attention, flatten),
        flat_positions([batch.positions(i) for i in examples], max(map(len, tokens))),
        Supervision(
            torch.from_numpy(batch.labels),
            None if batch.record is None else batch.targets(),
            None if label_logits is None else torch.from_numpy(label_logits),
        ),
    )
