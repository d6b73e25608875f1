"""HeadLoss: the output layer and the loss together, as an ordinary module for any trainer.

    loss = HeadLoss(terms)(hidden, head, batch) / positions_of_the_global_batch

Positions × classes never exists; see losses/fused.py for how, and for what the memory is. `StudentWithLoss` (loss.py)
is a student with the same loss in one module, and has the terms too that are not of logits.

B examples, L tokens, P positions, D hidden width, K terms.
"""

from torch import Tensor, nn

from kdcache.errors import ConfigError
from kdcache.losses.fused import FusedLoss
from kdcache.losses.supervision import Supervision
from kdcache.losses.terms import LossTerms
from kdcache.models.head import Head
from kdcache.models.wide_linear import WideLinear
from kdcache.store.batch import Batch
from kdcache.students.collate import Inputs

__all__ = ["HeadLoss"]


class HeadLoss(nn.Module):
    """The loss of hidden states, without their logits.

    Attributes:
        terms: what the loss is.
        chunk: positions whose logits exist at one time.
    """

    def __init__(self, terms: LossTerms, chunk: int = 1024) -> None:
        """Takes the terms.

        Args:
            terms: what the loss is, all of them of logits.
            chunk: positions whose logits exist at one time.

        Raises:
            ConfigError: a term is not of logits, such as a bottleneck.
        """
        super().__init__()
        if terms.beside:
            names = ", ".join(term.name for term in terms.beside.values())
            raise ConfigError(
                f"got terms that look at a whole forward pass ({names}), expected terms of logits: "
                "use with_loss, which has them too"
            )
        self.terms, self.chunk = terms, chunk

    def forward(
        self,
        hidden: Tensor,
        head: Head | nn.Linear,
        batch: Supervision | Batch | Inputs,
        weights_PK: Tensor | None = None,
    ) -> Tensor:
        """The loss as a sum over positions: divide it by the positions of the global batch.

        Args:
            hidden: what the student's body hands over, after its final norm: at the supervised positions, [P, D], or,
                where the batch is a collator's, at every token, [B, L, D].
            head: the student's. `Head.of(student)` knows its soft-cap and scale, and works inside the forward of its
                output layer, where FSDP and ZeRO-3 have gathered the weight; make it before these wrap the model. A
                plain nn.Linear does for a weight that is whole.
            batch: what the positions are compared with, in the same order: a Batch of a cache, what the Collator made
                of it, or a Supervision. What is needed of it goes to the device of the hidden states.
            weights_PK: what each position counts in each term, constants; [P, 1] for the same in all. None: 1.

        Returns:
            A float32 scalar, differentiable in hidden states and in the head's parameters.

        Raises:
            ConfigError: the head is more than a linear layer with a scale and a soft-cap, or the hidden states are not
                those of the positions.

        References:
            Hsu et al. 2024, Liger Kernel, arXiv 2410.10989: the fused linear cross-entropy, here for any terms.
        """
        return self.with_sums(hidden, head, batch, weights_PK)[0]

    def with_sums(
        self,
        hidden: Tensor,
        head: Head | nn.Linear,
        batch: Supervision | Batch | Inputs,
        weights_PK: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss with its parts, for logs.

        Args:
            hidden: as of `forward`.
            head: as of `forward`.
            batch: as of `forward`.
            weights_PK: as of `forward`.

        Returns:
            (loss, sums_K): the plain terms' sums over positions, float64, detached.

        Raises:
            ConfigError: as `forward`.
        """
        hidden_PD, supervision = _at_positions(hidden, batch)
        task = FusedLoss(self.terms, supervision, self.chunk, weights_PK)
        if isinstance(head, Head):
            if not head.fuses:
                raise ConfigError(
                    f"the head of {type(head.model).__name__} is more than a linear layer with a scale and a soft-cap, "
                    "expected one that can be computed with the loss: use its logits and distillation_loss"
                )
            loss, sums_K = head.run(hidden_PD, task)
        elif isinstance(head, WideLinear):
            loss, sums_K = head(hidden_PD, task=task)
        else:
            loss, sums_K = task(hidden_PD, head.weight, head.bias)
        return loss, sums_K


def _at_positions(hidden: Tensor, batch: Supervision | Batch | Inputs) -> tuple[Tensor, Supervision]:
    """(hidden states at the positions [P, D], what they are compared with, on their device)."""
    if isinstance(batch, Inputs):
        supervision = batch.supervision
        if hidden.ndim == 3:
            hidden = hidden.flatten(0, 1)[batch.flat_P.to(hidden.device)]
    elif isinstance(batch, Batch):
        if batch.labels.ndim > 1:
            raise ConfigError("got a batch with several labels for each position, expected one: use with_loss")
        supervision = Supervision.of(batch)
    else:
        supervision = batch
    if hidden.shape[:-1] != (supervision.num_positions,):
        raise ConfigError(
            f"got hidden states of shape {[*hidden.shape]}, expected [{supervision.num_positions}, width], those of "
            "the supervised positions, or [examples, tokens, width] with what the Collator returns"
        )
    return hidden, supervision.to(hidden.device)
