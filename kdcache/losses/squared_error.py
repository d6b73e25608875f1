"""`{name: squared_error}`: the mean over outputs of (output − value)², as torch's mse_loss.

Hinton, Vinyals, Dean 2015 (section 2.1) show it to be the limit of distillation at a high temperature, for logits of
mean 0; against labels it is plain regression. An output without a value counts 0 in the mean.

P positions, K outputs.
"""

from typing import TYPE_CHECKING, Literal

from kdcache.losses.output_term import OutputTerm

if TYPE_CHECKING:
    from torch import Tensor

__all__ = ["SquaredErrorTerm"]


class SquaredErrorTerm(OutputTerm):
    """The mean over outputs of (output − value)²."""

    name: Literal["squared_error"] = "squared_error"

    def value_and_slopes(
        self, outputs_PK: "Tensor", values_PK: "Tensor", missing_PK: "Tensor"
    ) -> "tuple[Tensor, Tensor]":
        gap_PK = outputs_PK - values_PK
        return (gap_PK**2).mean(-1), gap_PK * (2 / gap_PK.shape[1])
