"""Total variation distance ½ Σ |p − q|, between 0 and 1.

For distillation Wen, Li, Du, Mou 2023 (f-DISTILL, arXiv 2307.15190). Its slope jumps where p = q and is 0 there.

P positions, C compared classes.
"""

from typing import TYPE_CHECKING, Literal

from kdcache.losses.divergence import Divergence

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.losses.reference import Pair

__all__ = ["TotalVariation"]


class TotalVariation(Divergence):
    """The total variation distance."""

    kind: Literal["tvd"] = "tvd"

    def summands(self, pair: "Pair") -> "Tensor":
        return 0.5 * (pair.p_PC - pair.q_PC).abs()

    def slopes(self, pair: "Pair") -> "Tensor":
        return 0.5 * pair.q_PC * (pair.q_PC - pair.p_PC).sign()
