"""ModelEngine: what engines have in common that hold a model of transformers in this process.

Examples go through it in padded batches, as `feeding` says, and it is tried out before a dump begins.

B examples, L tokens, P positions, V classes, D hidden width.
"""

from abc import abstractmethod
from collections.abc import Iterator, Mapping, Sequence
from dataclasses import replace
from typing import Any

import torch
from torch import Tensor

from kdcache.dump.engines.engine import Engine, Rows, Wanted
from kdcache.dump.trial import try_model
from kdcache.errors import TeacherError
from kdcache.models.feeding import Feeding
from kdcache.models.inputs import ModelInputs
from kdcache.tasks import Example

__all__ = ["ATTENTION", "ModelEngine"]

ATTENTION = "attention_implementation"


class ModelEngine(Engine):
    """An engine around a model.

    Attributes:
        model: Placed.
        feeding: How it is fed.
    """

    model: Any
    feeding: Feeding

    @abstractmethod
    def rows(self, inputs: ModelInputs, flat_P: Tensor, *, transient: bool = False) -> Iterator[Rows]:
        """What one forward pass gives at some positions, block by block.

        Args:
            inputs: Of the pass.
            flat_P: Where the positions are among the B·L tokens.
            transient: See `rows_of`.
        """

    def hidden(self, inputs: ModelInputs, flat_P: Tensor) -> Tensor:
        """The inputs of the output layer at the positions of one forward pass, [P, D]."""
        raise NotImplementedError

    def rows_of(self, examples: Sequence[Example], *, transient: bool = False) -> Iterator[Rows]:
        """As Engine says."""
        done = 0
        for inputs, flat_P in self.feeding.passes(examples):
            for part, logits_PV, hidden_PD in self.rows(inputs, flat_P, transient=transient):
                yield slice(done + part.start, done + part.stop), logits_PV, hidden_PD
            done += len(flat_P)

    def hidden_of(self, examples: Sequence[Example]) -> Tensor:
        """As Engine says."""
        return torch.cat([self.hidden(*inputs) for inputs in self.feeding.passes(examples)])

    def try_out(self, wanted: Wanted, longest: int) -> None:
        """Look whether neighbours in a batch or a row change what it says, and feed it so that they do not."""
        self.feeding = try_model(self.model, self.feeding, self.device, wanted, longest)

    @property
    def ways(self) -> dict[str, Any]:
        """How it is fed, and how it computes attention; the latter is None of a model that has no choice."""
        return {"together": self.feeding.together, "apart": self.feeding.apart, ATTENTION: self._attention}

    def run_as(self, ways: Mapping[str, Any]) -> None:
        """As Engine says."""
        feeding = dict(ways)
        expected = feeding.pop(ATTENTION, self._attention)
        if self._attention != expected:
            raise TeacherError(
                f"got a teacher that computes attention by {self._attention}, expected {expected}, with which the "
                f"cache was begun: set teacher.{ATTENTION}: {expected}, or use another output folder"
            )
        self.feeding = replace(self.feeding, **feeding)

    @property
    def _attention(self) -> str | None:
        return getattr(self.model.config, "_attn_implementation", None)
