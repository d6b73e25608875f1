"""The Hellinger distance squared, ½ Σ (√p − √q)², as a divergence of one's own: `module: extending.hellinger`.

Value and slopes are the plain formula in logarithms. Of a row's padding they make something; kdcache throws it away.
"""

from typing import Literal

from torch import Tensor

import kdcache
from kdcache.losses import Divergence, Pair


@kdcache.register_divergence
class Hellinger(Divergence):
    """½ Σ (√p − √q)², between 0 and 1."""

    kind: Literal["hellinger"] = "hellinger"

    def summands(self, pair: Pair) -> Tensor:
        """½ (√p − √q)² of each class."""
        return 0.5 * ((pair.log_p_PC / 2).exp() - (pair.log_q_PC / 2).exp()) ** 2

    def slopes(self, pair: Pair) -> Tensor:
        """½ (q − √(p q)), of which ½ q is the multiple of q that no softmax feels."""
        return -0.5 * ((pair.log_p_PC + pair.log_q_PC) / 2).exp()
