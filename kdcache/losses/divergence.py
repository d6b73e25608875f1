"""distillation_loss: a divergence between the teacher's and the student's distributions, on logits that exist.

The plain formula, differentiated by autograd: for a user's own training loop and as the oracle of the fused loss. It
holds a few tensors of positions × classes; FusedLoss does not.

P positions, E entries, V classes.
"""

from typing import Any, Literal

import torch
from torch import Tensor

from kdcache.errors import ConfigError
from kdcache.losses.forward_kl import ForwardKL
from kdcache.losses.reference import Reference
from kdcache.targets.record import Estimator, TeacherTargets

__all__ = ["KINDS", "distillation_loss", "smallest"]

KINDS = {"forward_kl": ForwardKL}


def distillation_loss(
    student_logits_PV: Tensor,
    targets: TeacherTargets,
    *,
    kind: str = "forward_kl",
    temperature: float = 1.0,
    estimator: Estimator = "normalised",
    temperature_squared: bool = True,
    reduction: Literal["mean", "sum", "none"] = "mean",
    **kind_parameters: Any,
) -> Tensor:
    """Divergence of the student from the teacher at T, in nats: a scalar, or [P] for reduction "none".

    student_logits_PV: float [P, V ≥ targets.num_classes]; columns above are padding and take no part. Half-precision
    logits are computed in float32. temperature_squared: times T², so that the gradient keeps its size (Hinton et al.
    2015, section 2). The mean of no positions is 0. Exact for dense records; what it is for others, reference.py says.
    Raises ConfigError for an unknown kind or a temperature that the cache does not hold.
    """
    if kind not in KINDS:
        raise ConfigError(f"got kind {kind!r}, expected one of {', '.join(KINDS)}")
    logits_PV = student_logits_PV[:, : targets.num_classes]
    logits_PV = logits_PV.to(torch.promote_types(logits_PV.dtype, torch.float32))
    log_q_PV = (logits_PV / temperature).log_softmax(-1)
    reference = Reference.of(targets, temperature, estimator, log_q_PV.dtype)
    log_q_tail_P = None
    if reference.tail_P is not None and reference.ids_PE is not None:
        tail_PV = log_q_PV.exp().scatter(1, reference.ids_PE, 0.0)
        log_q_tail_P = tail_PV.sum(-1).clamp(min=smallest(log_q_PV)).log()
    value_P = KINDS[kind](**kind_parameters).value(reference, reference.entries_of(log_q_PV), log_q_tail_P)
    if temperature_squared:
        value_P = value_P * temperature**2
    if reduction == "none":
        return value_P
    return value_P.sum() if reduction == "sum" else value_P.sum() / max(len(value_P), 1)


def smallest(values: Tensor) -> float:
    """Where an empty or vanishing tail stops: its log stays finite, its mass is 0 as far as any sum can tell."""
    return torch.finfo(values.dtype).tiny
