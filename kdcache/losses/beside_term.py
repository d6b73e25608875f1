"""BesideTerm: a term of a student's forward pass that is no function of its logits, and Pass, what it may look at.

A term may have a module with parameters of its own. It is made once, trained beside the student and thrown away, or
written to OUTPUT/modules.safetensors. Terms of other things than a settings file have this form too: the balancing loss
of a mixture of experts is one (kdcache/students/balance.py).

P positions, B examples, L tokens, D the student's width.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import TYPE_CHECKING, Any

from kdcache.losses.term import Term

if TYPE_CHECKING:
    from torch import Tensor, nn

    from kdcache.losses.supervision import Supervision

__all__ = ["BesideTerm", "Pass"]


@dataclass(frozen=True)
class Pass:
    """One forward pass of a student.

    output: what the model returned. hidden_PD: what its head was fed with at the positions; None where no term of the
    run has `needs_hidden`. supervision: of the positions. real_BL: bool, False for padding.
    """

    student: Any
    output: Any
    hidden_PD: "Tensor | None"
    supervision: "Supervision"
    real_BL: "Tensor"


class BesideTerm(Term):
    """Its sum is computed by whoever runs the student, once for each forward pass in training, and never in an
    evaluation."""

    @property
    def needs_hidden(self) -> bool:
        """Whether it looks at the hidden states that the head is fed with."""
        return False

    @property
    def model_arguments(self) -> Mapping[str, Any]:
        """What the model's forward is to be called with besides its inputs."""
        return {}

    def sum(self, module: "nn.Module | None", seen: Pass) -> "Tensor":
        """The plain term's sum over the positions of a forward pass, a differentiable scalar.

        Args:
            module: What `make_module` made.
            seen: The forward pass.
        """
        raise NotImplementedError
