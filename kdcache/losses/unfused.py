"""loss_of_logits: the loss on logits that a model's own head made, with whatever soft-cap or scale it has.

Same value and gradient as FusedLoss. Logits of all positions and their gradient exist at the same time, which is what
the fused head avoids: 2 · positions · classes numbers. The loss itself adds one chunk.

P positions, V classes.
"""

from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcache.losses.supervision import Supervision
from kdcache.losses.terms import LossTerms

__all__ = ["loss_of_logits"]


@torch.compiler.disable  # type: ignore[untyped-decorator]
def loss_of_logits(
    logits_PV: Tensor,
    terms: LossTerms,
    supervision: Supervision,
    chunk: int = 1024,
    weights_PK: Tensor | None = None,
) -> tuple[Tensor, Tensor]:
    """(loss, sums_K) as FusedLoss gives them, differentiable in logits_PV.

    logits_PV: supervised positions only, in the order of `supervision`; columns above num_classes: surplus.py.
    weights_PK: what each position counts in each term, constants; [P, 1] for the same in all. None: 1.
    """
    return _LossOfLogits.apply(logits_PV, terms, supervision, chunk, weights_PK)


class _LossOfLogits(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        logits_PV: Tensor,
        terms: LossTerms,
        supervision: Supervision,
        chunk: int,
        weights_PK: Tensor | None,
    ) -> tuple[Tensor, Tensor]:
        dtype = torch.promote_types(logits_PV.dtype, torch.float32)
        unit = terms.gradient_unit(logits_PV.dtype)
        grad_PV = torch.empty_like(logits_PV) if ctx.needs_input_grad[0] else None
        sums_K = torch.zeros(len(terms.names), dtype=torch.float64, device=logits_PV.device)
        like_PV = logits_PV.new_empty(0, logits_PV.shape[1], dtype=dtype)
        chunks = terms.in_chunks(supervision, chunk, like_PV=like_PV, weights_PK=weights_PK)
        for each in chunks if len(logits_PV) else ():
            rows = each.rows
            chunk_PV = logits_PV[rows].to(dtype, copy=True)
            sums_K += each.value_and_gradient_(chunk_PV)
            del each  # with what it compares, before the next is made
            if grad_PV is not None:
                grad_PV[rows] = chunk_PV if unit == 1 else chunk_PV.mul_(unit)
        ctx.save_for_backward(grad_PV)
        ctx.unit = unit
        ctx.mark_non_differentiable(sums_K)
        return terms.total(sums_K).to(dtype), sums_K

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        (grad_PV,) = ctx.saved_tensors
        if grad_PV is not None:
            grad_PV = torch.mul(grad_PV, grad_loss / ctx.unit, out=torch.empty_like(grad_PV))
        return grad_PV, None, None, None, None
