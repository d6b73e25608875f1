"""HeadLoss: the output layer and the loss together, as an ordinary module for any trainer.

    loss = HeadLoss(terms)(hidden_PD, head, supervision)[0] / positions_of_the_global_batch

Positions × classes never exists; see fused.py for how, and for what the memory is. `kdcache train` does the same by
`Head.run`. Terms that are not of logits (bottlenecks, a balancing loss) are not in it: students/loss.py adds these.

P positions, D hidden width, K terms.
"""

from torch import Tensor, nn

from kdcache.errors import ConfigError
from kdcache.losses.fused import FusedLoss
from kdcache.losses.supervision import Supervision
from kdcache.losses.terms import LossTerms
from kdcache.models.head import Head
from kdcache.models.wide_linear import WideLinear

__all__ = ["HeadLoss"]


class HeadLoss(nn.Module):
    """The loss of hidden states, without their logits.

    Attributes:
        terms: what the loss is.
        chunk: positions whose logits exist at one time.
    """

    def __init__(self, terms: LossTerms, chunk: int = 1024) -> None:
        super().__init__()
        self.terms, self.chunk = terms, chunk

    def forward(
        self,
        hidden_PD: Tensor,
        head: Head | nn.Linear,
        supervision: Supervision,
        weights_PK: Tensor | None = None,
    ) -> tuple[Tensor, Tensor]:
        """The loss and its parts, sums over positions: divide the loss by the positions of the global batch.

        Args:
            hidden_PD: what the student's body hands over (after its final norm) at the supervised positions, [P, D].
            head: the student's. `Head.of(student)` knows its soft-cap and scale, and works inside the forward of its
                output layer, where FSDP and ZeRO-3 have gathered the weight; make it before these wrap the model. A
                plain nn.Linear does for a weight that is whole.
            supervision: what the positions are compared with, in the same order, on the same device.
            weights_PK: what each position counts in each term, constants; [P, 1] for the same in all. None: 1.

        Returns:
            (loss, sums_K): a float32 scalar, differentiable in hidden states and in the head's parameters, and the
            plain terms' sums, float64, detached, for logs.

        Raises:
            ConfigError: the head is more than a linear layer with a scale and a soft-cap.

        References:
            Hsu et al. 2024, Liger Kernel, arXiv 2410.10989: the fused linear cross-entropy, here for any terms.
        """
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
            loss, sums_K = task(hidden_PD.flatten(0, -2), head.weight, head.bias)
        return loss, sums_K
