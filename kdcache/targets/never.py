"""Classes that a teacher never gives: their logit is −inf, and their probability 0 at every temperature.

Decoders ban classes so, and heads that are narrower than their vocabulary. A sparse record leaves such classes out of
its entries and of its tail. A dense one marks them, −inf in floats and the last code in logarithmic steps, which the
formula of these reads as −1.8e19. In memory a number stands for −inf that arithmetic can go on with, and the logarithm
of the probability is −240, so that 0 · log 0 is 0.

P positions, V classes.
"""

import numpy as np
from torch import Tensor

from kdcache.errors import TeacherError

__all__ = ["LOG_NEVER", "NEVER", "NEVER_CODE", "is_never", "refuse", "usable_rows", "with_stand_ins"]

NEVER = -1e30
"""Stands for a logit of −inf, as float32 masks below it do."""
LOG_NEVER = -240.0
"""log p of a class that is never given; e to that is 0 in float32."""
NEVER_CODE = np.uint16(65535)
_BELOW = -1e10


def is_never(relative: Tensor) -> Tensor:
    """Which of logits relative to their row's maximum stand for −inf, in memory."""
    return relative < _BELOW


def usable_rows(logits_PV: Tensor) -> Tensor:
    """Rows whose largest logit is a number, bool [P]: neither NaN nor +inf anywhere, nor −inf everywhere."""
    return logits_PV.amax(-1).isfinite()


def with_stand_ins(logits_PV: Tensor) -> Tensor:
    """float32, a number in the place of −inf."""
    return logits_PV.float().clamp(min=NEVER)


def refuse(usable_R: Tensor, first: int, total: int) -> None:
    """Raises TeacherError for the first row that is not usable. first: the number of row 0 among all of them."""
    if not usable_R.all():
        raise TeacherError(
            f"the teacher gave NaN or infinite logits in row {first + int((~usable_R).nonzero()[0])} of {total}, "
            "expected finite ones, or −inf for classes that it never gives, not for all; try teacher.dtype float32 or "
            "bfloat16"
        )
