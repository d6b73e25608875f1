"""distillation_loss: a divergence between the teacher's and the student's distributions, on logits that exist.

The plain formula, differentiated by autograd: for a user's own training loop and as the oracle of the fused loss. It
holds a few tensors of positions × classes; FusedLoss does not.

P positions, E entries, V classes, X columns above them.
"""

from typing import Literal, get_args

import torch
from torch import Tensor

from kdcache.errors import ConfigError
from kdcache.losses.divergence import divergence_of_kind
from kdcache.losses.forward_kl import cross_entropy
from kdcache.losses.reduction import check_reduction
from kdcache.losses.reference import Reference, form_of
from kdcache.losses.softmax import MASKED, smallest
from kdcache.losses.surplus import Surplus
from kdcache.losses.temperature import TemperatureSchedule, softmax_temperature
from kdcache.targets.precision import full_precision
from kdcache.targets.record import Estimator, TeacherTargets

__all__ = ["distillation_loss"]

_REDUCTIONS = ("mean", "sum", "none", "class_mean")


def distillation_loss(
    student_logits_PV: Tensor,
    targets: TeacherTargets,
    *,
    kind: str = "forward_kl",
    temperature: float = 1.0,
    temperature_schedule: TemperatureSchedule = "hinton",
    estimator: Estimator = "normalised",
    temperature_squared: bool = True,
    reduction: Literal["mean", "sum", "none", "class_mean"] = "mean",
    **parameters: float,
) -> Tensor:
    """Divergence of the student from the teacher at T, in nats.

    Every kind is exact for dense records, and for factored ones it is that of the distribution they stand for. On
    others a kind that can use the weights of a sample (forward_kl) does; else the classes outside the certain entries
    are compared as one, with their exact mass: a lower bound of the full divergence for all kinds but alpha_beta. The
    record's rule "renormalise" is for forward_kl alone.

    Args:
        student_logits_PV: Float [P, V or more], V = targets.num_classes. Columns above belong to the softmax and should
            get nothing, which costs −log of the mass left to the V classes (surplus.py). Half-precision logits are
            computed in float32, under autocast too. A class that the student masks, by −inf or the like, has a logit
            10,000 below the largest.
        targets: The teacher's records at the same positions.
        kind: Which divergence, a name of kdcache.losses.registry.DIVERGENCES.
        temperature: T, of teacher and student.
        temperature_schedule: Which softmax T stands for; see temperature.py.
        estimator: Of a sampled record's weights.
        temperature_squared: Times the square of the usual schedule's T, so that the gradient keeps its size (Hinton et
            al. 2015, section 2); nothing at the article's one-hot limit.
        reduction: The mean of no positions is 0. "class_mean" is the mean over positions of −(1/V) Σ p log q, for
            forward_kl: the soft cross-entropy divided by the number of classes, with the teacher's entropy left in.
        **parameters: Of the kind, such as `beta` of jsd; its own file has the ranges and defaults.

    Returns:
        A scalar, or [P] for reduction "none".

    Raises:
        ConfigError: An unknown kind, parameter or reduction, T ≤ 0, a temperature that the cache does not hold, or a
            kind that these records cannot answer.
    """
    divergence = divergence_of_kind(kind, parameters)
    for name, given, valid in (("reduction", reduction, _REDUCTIONS), ("estimator", estimator, get_args(Estimator))):
        if given not in valid:
            raise ConfigError(f"got {name} {given!r}, expected one of {', '.join(valid)}")
    check_reduction(divergence, reduction)
    refused = None if divergence.is_cross_entropy else kind
    softmax_at = softmax_temperature(temperature, temperature_schedule, refused)
    shape = [*student_logits_PV.shape]
    if len(shape) != 2:
        raise ConfigError(f"got logits of shape {shape}, expected [positions, classes]; flatten batches and positions")
    P, V = shape
    if targets.num_positions != P or targets.num_classes > V:
        raise ConfigError(
            f"got logits of {P} positions and {V} classes, expected {targets.num_positions} positions and at least "
            f"{targets.num_classes} classes, those of the targets"
        )
    form = form_of(targets, divergence, estimator, softmax_at)
    with full_precision(student_logits_PV.device):
        whole = student_logits_PV.to(torch.promote_types(student_logits_PV.dtype, torch.float32))
        whole = torch.maximum(whole, whole[:, : targets.num_classes].detach().amax(-1, keepdim=True) + MASKED)
        y_PV, y_PX = (whole / (softmax_at or 1.0)).split([targets.num_classes, V - targets.num_classes], -1)
        log_q_PV = y_PV.log_softmax(-1)
        reference = Reference.of(targets, softmax_at or 1.0, form, log_q_PV.dtype)
        log_q_PC = reference.entries_of(log_q_PV)
        if reference.tail:
            assert reference.ids_PE is not None
            tail_PV = log_q_PV.exp().scatter(1, reference.ids_PE, 0.0)
            log_q_PC = torch.cat([log_q_PC, tail_PV.sum(-1, keepdim=True).clamp(min=smallest(log_q_PV)).log()], 1)
        pair = reference.compare(log_q_PC)
        value_P = cross_entropy(pair) if reduction == "class_mean" else divergence.value(pair)
        if y_PX.shape[1]:
            value_P = value_P + Surplus(y_PX, y_PV.logsumexp(-1, keepdim=True)).price_P
        if reduction == "class_mean":
            value_P = value_P / targets.num_classes
        if temperature_squared:
            value_P = value_P * (softmax_at or 1.0) ** 2
    if reduction == "none":
        return value_P
    return value_P.sum() if reduction == "sum" else value_P.sum() / max(len(value_P), 1)
