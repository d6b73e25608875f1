"""Noise and bias of a step's gradient: of a student's parameters, from the dense record's, for one batch of text.

Steps add up gradients, so noise (what draws differ in) averages out over them and bias (what their mean is off by) does
not. Both are relative to the squared norm of the dense record's gradient. Of D draws the mean still has 1/D of the
noise, which is taken off the bias: where that leaves less than nothing, there is none to be seen.
"""

from collections.abc import Callable

import torch
from torch import Tensor

from kdcache.losses.fused import FusedLoss
from kdcache.losses.supervision import Supervision
from kdcache.targets.record import TeacherTargets
from tests.bench.small_models import Learner

__all__ = ["noise_and_bias"]


def noise_and_bias(
    learner: Learner, tokens: Tensor, exact: TeacherTargets, drawn: Callable[[int], TeacherTargets], draws: int
) -> tuple[float, float]:
    """tokens: windows [B, L + 1]. exact: the dense record of the batch; drawn: another one of it, by number."""
    wanted = _gradient(learner, tokens, exact)
    found = torch.stack([_gradient(learner, tokens, drawn(number)) for number in range(draws)])
    noise = found.var(0).sum()
    off = (found.mean(0) - wanted).square().sum() - noise / draws
    whole = wanted.square().sum()
    return float(noise / whole), float(off / whole)


def _gradient(learner: Learner, tokens: Tensor, targets: TeacherTargets) -> Tensor:
    supervision = Supervision(tokens[:, 1:].flatten(), targets)
    learner.model.zero_grad()
    hidden = learner.model.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state
    loss, _ = learner.model.lm_head(hidden, task=FusedLoss(learner.terms, supervision))
    (loss / supervision.num_positions).backward()
    return torch.cat([p.grad.flatten() for p in learner.model.parameters()]).double()
