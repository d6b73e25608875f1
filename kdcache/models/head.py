"""WideLinear: a model's last layer with float32 logits, whatever the dtype of the model.

What a model does after its last layer (soft-cap, scale) then acts on float32 too. Only the layer's own rounding goes:
its weights and inputs are what they were. Names and tied weights stay.

P rows, D hidden width, V classes.
"""

from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kdcache.models.loading import classifier_head
from kdcache.targets.product import wide_product

__all__ = ["WideLinear", "widen_head"]

HALF = (torch.bfloat16, torch.float16)


class WideLinear(nn.Linear):
    """Linear with a float32 output of half-precision inputs and weights; on others what Linear does."""

    def forward(self, input: Tensor) -> Tensor:
        if input.dtype != self.weight.dtype or input.dtype not in HALF:
            return super().forward(input)
        output: Tensor = _WideProduct.apply(input.flatten(0, -2), self.weight)
        output = output.unflatten(0, input.shape[:-1])
        return output if self.bias is None else output + self.bias


class _WideProduct(torch.autograd.Function):
    @staticmethod
    def forward(ctx: Any, input_PD: Tensor, weight_VD: Tensor) -> Tensor:
        ctx.save_for_backward(input_PD, weight_VD)
        return wide_product(input_PD, weight_VD)

    @staticmethod
    @once_differentiable
    def backward(ctx: Any, grad_PV: Tensor) -> tuple[Tensor | None, Tensor | None]:
        input_PD, weight_VD = ctx.saved_tensors
        needs_input, needs_weight = ctx.needs_input_grad
        grad_PV = grad_PV.to(input_PD.dtype)
        return grad_PV @ weight_VD if needs_input else None, grad_PV.T @ input_PD if needs_weight else None


def widen_head(model: Any) -> bool:
    """Make the layer that gives a model's logits a WideLinear. False where it is not a plain linear layer.

    That of a classifier is the last linear layer of its head with as many outputs as there are classes.
    """
    layer = model.get_output_embeddings()
    if layer is None:
        head = classifier_head(model)
        modules = [] if head is None else [*head.modules()]
        linear = [m for m in modules if isinstance(m, nn.Linear) and m.out_features == model.config.num_labels]
        layer = linear[-1] if linear else None
    if type(layer) not in (nn.Linear, WideLinear):
        return False
    layer.__class__ = WideLinear
    if hasattr(layer, "_old_forward"):  # accelerate calls it for a model whose layers lie on several devices
        layer._old_forward = MethodType(WideLinear.forward, layer)
    return True
