"""Surplus: the columns of a student above the teacher's classes, which belong to its softmax and should get nothing.

A student's vocabulary is often wider than its tokenizer's, by rows that round it to a multiple of 64 or by far more.
The saved model's softmax runs over all of them, so a loss that left them out would never push them down and would
score better than the artefact. The target gives them probability 0. What a term costs is then

    its value on the softmax restricted to the teacher's classes  −  log Q,

Q being the mass that the whole softmax, at the term's temperature, leaves to the teacher's classes. By the chain rule
of entropy that is exactly the forward KL, and the cross-entropy, on the whole softmax with p = 0 above. Kinds that
would be infinite there (reverse KL) or bounded, and so too weak to push hard (total variation, Jensen-Shannon), keep
their meaning among the teacher's classes and pay the same for the rest: a term grows by nothing else, and is 0 for the
teacher itself. A position that names no class (no label) pays nothing, nor does a matched entropy, which goes beside a
divergence. For Horvitz-Thompson weights, which sum to 1 on the mean only, the price is that of a sum of 1.

Cost: nothing where there are none. Above 49,152 classes, 64 columns make the loss, without the head's products, 1.1
times as long and 6,144 columns 1.4 times (1 thread of a shared CPU; KL and cross-entropy).

P positions, X surplus columns.
"""

import torch
from torch import Tensor

__all__ = ["Surplus"]


class Surplus:
    """price_P: −log Q, nats. share_P1: 1 − Q. probs_PX: of the whole softmax.

    The price's gradient by y = logits / T is probs_PX there, and −share times the restricted softmax at the classes.
    log_total_P1: the log of the sum of exp(y) over the classes. Right however far the columns tower above the classes.
    """

    def __init__(self, y_PX: Tensor, log_total_P1: Tensor) -> None:
        log_odds_P1 = y_PX.logsumexp(-1, keepdim=True) - log_total_P1
        price_P1 = torch.nn.functional.softplus(log_odds_P1)
        self.price_P, self.share_P1 = price_P1[:, 0], log_odds_P1.sigmoid()
        self._y_PX, self._log_whole_P1 = y_PX, log_total_P1 + price_P1

    @property
    def probs_PX(self) -> Tensor:
        return (self._y_PX - self._log_whole_P1).exp()
