"""Total variation distance ½ Σ |p − q|, between 0 and 1.

For distillation Wen, Li, Du, Mou 2023 (f-DISTILL, arXiv 2307.15190). Its slope jumps where p = q and is 0 there.

P positions, C compared classes.
"""

from dataclasses import dataclass

from torch import Tensor

from kdcache.losses.reference import Pair

__all__ = ["TotalVariation"]


@dataclass(frozen=True)
class TotalVariation:
    weighable = False
    merges = True

    def value(self, pair: Pair) -> Tensor:
        return 0.5 * (pair.p_PC - pair.q_PC).abs().sum(-1)

    def slopes(self, pair: Pair) -> Tensor:
        return 0.5 * pair.q_PC * (pair.q_PC - pair.p_PC).sign()
