"""The whole distribution of a factored record at one temperature, every class of it.

Certain entries are exact. The other classes share the tail's exact mass in proportion to exp(z̃ / T), z̃ the logits
that the coefficients stand for.

P positions, E entries, V classes.
"""

from typing import TYPE_CHECKING

import torch
from torch import Tensor

from kdcache.targets.never import LOG_NEVER, NEVER
from kdcache.targets.precision import full_precision

if TYPE_CHECKING:
    from kdcache.targets.factored_targets import FactoredTargets

__all__ = ["dot", "factored_log_probs", "factored_probs"]


def factored_log_probs(targets: "FactoredTargets", temperature: float) -> Tensor:
    """log p of every class, [P, V]."""
    log_probs_PV = _tail_logits(targets, temperature)
    _set_certain(targets, log_probs_PV, torch.full_like(targets.relative_PE, -torch.inf))
    log_probs_PV += (targets.log_tail_mass(temperature) - log_probs_PV.logsumexp(-1))[:, None]
    _set_certain(targets, log_probs_PV, targets.log_probs(temperature))
    return log_probs_PV.nan_to_num_(nan=LOG_NEVER, neginf=LOG_NEVER) if _some_never(targets) else log_probs_PV


def factored_probs(targets: "FactoredTargets", temperature: float) -> tuple[Tensor, Tensor]:
    """(p of every class [P, V], Σ p log p [P], nats), in fewer passes over the classes than its logarithm takes."""
    x_PV = _tail_logits(targets, temperature)
    x_PV -= x_PV.amax(-1, keepdim=True)
    if _some_never(targets):
        x_PV.clamp_(min=NEVER)
    p_PV = _set_certain(targets, x_PV.exp(), torch.zeros_like(targets.relative_PE))
    sum_P, log_tail_P = p_PV.sum(-1), targets.log_tail_mass(temperature)
    scale_P = log_tail_P.exp() / sum_P.clamp(min=torch.finfo(sum_P.dtype).tiny)
    p_PV *= scale_P[:, None]
    negative_entropy_P = dot(p_PV, x_PV) + torch.where(scale_P > 0, sum_P * scale_P * scale_P.log(), 0.0)
    log_certain_PE = targets.log_probs(temperature).masked_fill(~targets.certain_PE(), -torch.inf)
    certain_PE = log_certain_PE.exp()
    _set_certain(targets, p_PV, certain_PE)
    certain_P = (certain_PE * log_certain_PE.masked_fill(certain_PE == 0, 0.0)).sum(-1)
    return p_PV, negative_entropy_P + certain_P


def dot(first_PV: Tensor, second_PV: Tensor) -> Tensor:
    """Σ first · second of each row, without their product in memory but for a gradient's sake."""
    if second_PV.requires_grad:
        return (first_PV * second_PV).sum(-1)  # whose gradient is no matrix product that autocast could lower
    with full_precision(first_PV.device):
        return (first_PV[:, None] @ second_PV[:, :, None])[:, 0, 0]


def _tail_logits(targets: "FactoredTargets", temperature: float) -> Tensor:
    logits_PV = targets.tail_logits()
    return logits_PV if temperature == 1 else logits_PV.div_(temperature)


def _some_never(targets: "FactoredTargets") -> bool:
    """Whether some class is never given, or some tail has no class that is."""
    return targets.basis.never_V is not None or targets.some_without_tail


def _set_certain(targets: "FactoredTargets", values_PV: Tensor, new_PE: Tensor) -> Tensor:
    """values_PV with those of the certain entries' classes replaced, in place.

    The places of a row that are not certain repeat its first; a row without a certain entry repeats its own value.
    """
    certain_PE, ids_PE = targets.certain_PE(), targets.ids_PE
    first_P1 = torch.where(certain_PE[:, :1], new_PE[:, :1], values_PV.gather(1, ids_PE[:, :1]))
    return values_PV.scatter_(
        1, torch.where(certain_PE, ids_PE, ids_PE[:, :1]), torch.where(certain_PE, new_PE, first_P1)
    )
