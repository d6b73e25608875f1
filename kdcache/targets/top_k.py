"""TopK: the k largest logits of a row, as other tools keep them, here with the tail's exact mass at any temperature.

Biased where the tail matters, and more so the higher the temperature.
"""

from typing import Annotated, Literal

from pydantic import Field as Setting

from kdcache.targets.plan import Plan
from kdcache.targets.sparse import Sparse

__all__ = ["TopK"]


class TopK(Sparse):
    """The k largest logits of a row.

    k: how many logits of each row are kept.
    tail: what a loss makes of the other classes: "ghost", one extra class with their exact mass, or "renormalise",
        which drops them.
    logit_dtype: how a kept logit is stored, relative to the row's maximum. "uint16", logarithmic steps, keeps log Z
        to 1e-3; "uint8" saves 3 bytes per position and keeps it to 1e-2; "float16" and "float32" are as they say.
    curve: where the partition curve of the tail is stored, from which a loss has the tail's exact mass at any
        temperature that it answers.
    """

    kind: Literal["top_k"] = "top_k"
    k: Annotated[int, Setting(ge=1, le=32768)]
    tail: Literal["ghost", "renormalise"] = "ghost"

    @property
    def plan(self) -> Plan:
        return Plan(self.k, 0, (), self.curve, self.logit_dtype)

    @property
    def tail_rule(self) -> Literal["ghost", "renormalise"]:
        return self.tail
