"""FusedLoss: the output layer and the loss together, chunk by chunk of positions.

The forward pass computes each chunk's logits, turns them in place into their gradient (terms.py), and multiplies that
into the gradients of hidden and weight at once, so that positions × classes never exists: the memory besides hidden
and weight is one chunk of logits in float32 (in half precision half as much again, and 128 MB) and the two gradients.
The backward pass only scales them, by whatever the loss is divided by. Logits and their gradient are float32 for
half-precision weights (targets/product.py; under torch.autocast the weight is taken in the dtype of the hidden states).
The gradient is rounded to the hidden states' dtype for the products that carry it on, and the weight's is summed over
chunks in float32.

A scale and a soft-cap of the logits (`PostFunction`) are applied to the chunk in place, and the gradient is multiplied
by their derivative. That of a soft-cap is kept meanwhile: one more chunk in float32.

torch.compile leaves it as it is, behind one break of the graph: the body of a student is compiled, the loss is not
traced. What it does to a chunk is nine passes by the vendor's products and torch's own kernels.

The work happens inside the layer's own forward, where ZeRO-3 has gathered the weight, and the weight is not kept for
the backward pass, when it is gone. Same idea as the fused linear cross-entropy of Liger Kernel, for any LossTerms.

P positions, D hidden width, V rows of the head (the classes, and any above them), K terms.
"""

import math
from dataclasses import dataclass
from typing import Any

import torch
from torch import Tensor
from torch.autograd.function import once_differentiable

from kdcache.losses.supervision import Supervision
from kdcache.losses.terms import LossTerms
from kdcache.targets.output_layer import PLAIN, PostFunction
from kdcache.targets.product import add_product, wide_product

__all__ = ["FusedLoss", "head_logits"]


@dataclass(frozen=True)
class FusedLoss:
    """Task of a WideLinear: (loss, sums_K) of the positions whose last hidden states it is given.

    loss: float32 scalar, a sum over positions, differentiable in hidden, weight and bias; 0 for no positions.
    sums_K: float64, the plain terms' sums, detached, for logs.
    hidden_PD: supervised positions only, in the order of `supervision`. chunk: positions whose logits exist at once.
    weights_PK: what each position counts in each term, constants; [P, 1] for the same in all. None: 1.
    Rows of the weight above the terms' num_classes are pushed down: surplus.py.
    """

    terms: LossTerms
    supervision: Supervision
    chunk: int = 1024
    weights_PK: Tensor | None = None

    @torch.compiler.disable  # type: ignore[untyped-decorator]
    def __call__(
        self, hidden_PD: Tensor, weight_VD: Tensor, bias_V: Tensor | None = None, post: PostFunction = PLAIN
    ) -> tuple[Tensor, Tensor]:
        return _FusedLoss.apply(hidden_PD, weight_VD, bias_V, self, post, torch.is_grad_enabled())


class _FusedLoss(torch.autograd.Function):
    @staticmethod
    def forward(
        ctx: Any,
        hidden_PD: Tensor,
        weight_VD: Tensor,
        bias_V: Tensor | None,
        task: FusedLoss,
        post: PostFunction,
        differentiated: bool,
    ) -> tuple[Tensor, Tensor]:
        terms, P, V = task.terms, len(hidden_PD), len(weight_VD)
        dtype = torch.promote_types(weight_VD.dtype, torch.float32)
        head_VD, unit = weight_VD.to(hidden_PD.dtype), _unit(terms, post, hidden_PD.dtype)
        needs_hidden, needs_weight, needs_bias = (differentiated and needed for needed in ctx.needs_input_grad[:3])
        grad_hidden_PD = torch.empty_like(hidden_PD) if needs_hidden else None
        grad_weight_VD = torch.zeros_like(weight_VD, dtype=dtype) if needs_weight else None
        grad_bias_V = torch.zeros_like(bias_V, dtype=dtype) if needs_bias and bias_V is not None else None
        sums_K = torch.zeros(len(terms.names), dtype=torch.float64, device=hidden_PD.device)
        buffer_PV = torch.empty(min(task.chunk, P), V, dtype=dtype, device=hidden_PD.device)
        needs_slopes = post.soft_cap is not None and (needs_hidden or needs_weight or needs_bias)
        slopes_PV = torch.empty_like(buffer_PV) if needs_slopes else None
        with torch.autocast(hidden_PD.device.type, enabled=False):
            chunks = terms.in_chunks(task.supervision, task.chunk, like_PV=buffer_PV, weights_PK=task.weights_PK)
            for chunk in chunks if P else ():
                rows, chunk_PD = chunk.rows, hidden_PD[chunk.rows]
                logits_PV = head_logits(chunk_PD, head_VD, bias_V, out=buffer_PV[: len(chunk_PD)])
                slopes = None if slopes_PV is None else slopes_PV[: len(chunk_PD)]
                post.apply_(logits_PV, slopes)
                sums_K += chunk.value_and_gradient_(logits_PV)
                del chunk  # with what it compares, before the next is made
                post.backward_(logits_PV, slopes)
                if unit != 1:
                    logits_PV *= unit
                slope_PV = logits_PV.to(hidden_PD.dtype)
                if grad_hidden_PD is not None:
                    torch.mm(slope_PV, head_VD, out=grad_hidden_PD[rows])
                if grad_weight_VD is not None:
                    add_product(grad_weight_VD, slope_PV.T, chunk_PD)
                if grad_bias_V is not None:
                    grad_bias_V += logits_PV.sum(0)
        ctx.save_for_backward(grad_hidden_PD, grad_weight_VD, grad_bias_V)
        ctx.unit = unit
        ctx.dtypes = (hidden_PD.dtype, weight_VD.dtype, None if bias_V is None else bias_V.dtype)
        ctx.mark_non_differentiable(sums_K)
        return terms.total(sums_K).to(dtype), sums_K

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_loss: Tensor, _: Tensor) -> tuple[Tensor | None, ...]:
        scale = grad_loss / ctx.unit
        scaled = (
            None if gradient is None else torch.mul(gradient, scale, out=torch.empty_like(gradient, dtype=dtype))
            for gradient, dtype in zip(ctx.saved_tensors, ctx.dtypes, strict=True)
        )
        return (*scaled, None, None, None)


def _unit(terms: LossTerms, post: PostFunction, dtype: torch.dtype) -> float:
    """`terms.gradient_unit` of the linear layer's logits: a small scale makes their gradient small too."""
    return terms.gradient_unit(dtype) * (2.0 ** -round(math.log2(post.scale)) if dtype == torch.float16 else 1.0)


def head_logits(hidden_PD: Tensor, weight_VD: Tensor, bias_V: Tensor | None, out: Tensor) -> Tensor:
    """hidden · weightᵀ + bias into `out` (float32 or wider), never rounded to the dtype of hidden and weight."""
    if out.dtype == weight_VD.dtype:
        torch.mm(hidden_PD, weight_VD.T, out=out)
    else:
        wide_product(hidden_PD, weight_VD, out)
    if bias_V is not None:
        out += bias_V
    return out
