"""WideLinear: a model's output layer with float32 logits, that can also do a task with its own weight.

What a model does after this layer (soft-cap, scale) acts on float32 too. Only the layer's own rounding goes: its
weights and inputs are what they were. Names and tied weights stay.

Whoever is done with the logits of one call before the next may have both in the same memory (`into`). On a CPU fresh
memory for 512 positions of 49,152 classes costs about a tenth of their product: the system clears 100 MB, page by
page.

A task, such as the fused loss, needs the weight and not the logits. It runs inside the layer's own forward, because
that is where trainers that split weights over ranks (ZeRO-3, FSDP) have gathered the weight.

P rows, D hidden width, V classes.
"""

from collections.abc import Callable, Iterator
from contextlib import contextmanager
from types import MethodType
from typing import Any

import torch
from torch import Tensor, nn
from torch.autograd.function import once_differentiable

from kdcache.targets.product import wide_product

__all__ = ["HALF", "HeadTask", "WideLinear", "widen"]

HALF = (torch.bfloat16, torch.float16)
HeadTask = Callable[[Tensor, Tensor, Tensor | None], Any]
"""(hidden_PD, weight_VD, bias_V or None) -> whatever the task gives."""


class WideLinear(nn.Linear):
    """Linear with a float32 output of half-precision inputs and weights; on others what Linear does.

    Make one of a model's output layer by `widen`, before a trainer takes the model: names and tied weights stay.
    """

    _memory: Tensor | None = None
    """For the logits of the next call."""

    def forward(self, input: Tensor, task: HeadTask | None = None) -> Any:
        """The logits, or what a task makes of the input and this layer's weight.

        Args:
            input: hidden states, [..., D].
            task: called with (the input as [P, D], weight_VD, bias_V or None) in place of the product.

        Returns:
            Logits [..., V], or whatever the task gives.
        """
        if task is not None:
            return task(input.flatten(0, -2), self.weight, self.bias)
        if self._memory is not None and input.dtype == self.weight.dtype and input.dtype in (torch.float32, *HALF):
            memory, self._memory = self._memory, None
            return self._put(input.flatten(0, -2), memory).unflatten(0, input.shape[:-1])
        if input.dtype != self.weight.dtype or input.dtype not in HALF:
            return super().forward(input)
        output: Tensor = _WideProduct.apply(input.flatten(0, -2), self.weight)
        output = output.unflatten(0, input.shape[:-1])
        return output if self.bias is None else output + self.bias

    @contextmanager
    def into(self, memory: Tensor) -> Iterator[None]:
        """The first call while this lasts puts its logits there, the same bits as elsewhere. Without gradients alone.

        Args:
            memory: float32, flat and large enough, where the layer is.
        """
        self._memory = memory
        try:
            yield
        finally:
            self._memory = None

    def _put(self, input_PD: Tensor, memory: Tensor) -> Tensor:
        P, V = len(input_PD), self.out_features
        output_PV = memory[: P * V].view(P, V)
        if input_PD.dtype in HALF:
            wide_product(input_PD, self.weight, out=output_PV)
            return output_PV if self.bias is None else output_PV.add_(self.bias)
        if self.bias is None:
            return torch.mm(input_PD, self.weight.T, out=output_PV)
        return torch.addmm(self.bias, input_PD, self.weight.T, out=output_PV)


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


def widen(layer: Any) -> bool:
    """Makes a plain linear layer a WideLinear.

    Args:
        layer: the layer that gives a model's logits, changed in place; None for a model without one.

    Returns:
        Whether it is a WideLinear now: False for a layer that is no plain linear one, which is left alone.
    """
    if type(layer) not in (nn.Linear, WideLinear):
        return False
    layer.__class__ = WideLinear
    if hasattr(layer, "_old_forward"):  # accelerate calls it for a model whose layers lie on several devices
        layer._old_forward = MethodType(WideLinear.forward, layer)
    return True
