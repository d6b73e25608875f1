"""`{name: cosine}`: 1 − cos of the angle between the outputs and the values of a position, between 0 and 2.

The direction alone, as embeddings are compared; at least two outputs, for of one there is only a sign. A position that
lacks a value, and one whose outputs or values are all 0, has no angle and counts 0.

P positions, K outputs.
"""

from typing import TYPE_CHECKING, Literal

from kdcache.errors import ConfigError
from kdcache.losses.output_term import OutputTerm

if TYPE_CHECKING:
    import torch
    from torch import Tensor

    from kdcache.losses.supervision import Supervision

__all__ = ["CosineTerm"]


class CosineTerm(OutputTerm):
    """1 − the cosine of the angle between outputs and values."""

    name: Literal["cosine"] = "cosine"

    def values(self, supervision: "Supervision", num_classes: int, dtype: "torch.dtype") -> "Tensor":
        if num_classes < 2:
            raise ConfigError("got a cosine term of one output, expected at least two: of one there is only a sign")
        return super().values(supervision, num_classes, dtype)

    def value_and_slopes(
        self, outputs_PK: "Tensor", values_PK: "Tensor", missing_PK: "Tensor"
    ) -> "tuple[Tensor, Tensor]":
        length_P1, other_P1 = outputs_PK.norm(dim=-1, keepdim=True), values_PK.norm(dim=-1, keepdim=True)
        none_P1 = missing_PK.any(-1, keepdim=True) | (length_P1 == 0) | (other_P1 == 0)
        own_PK, theirs_PK = outputs_PK / length_P1, values_PK / other_P1
        cosine_P1 = (own_PK * theirs_PK).sum(-1, keepdim=True)
        slopes_PK = (own_PK * cosine_P1 - theirs_PK) / length_P1
        return (1 - cosine_P1).masked_fill(none_P1, 0.0)[:, 0], slopes_PK.masked_fill(none_P1, 0.0)
