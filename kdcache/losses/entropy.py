"""Entropy distillation: the teacher's entropy as the weight of a position, and as something to match.

  weights     ½ H_t (1 + H_s / log C), nats, for divergence and cross_entropy terms
  matching    (H_s − H_t)², nats², a term of its own

H_t is the teacher's entropy at a temperature: exact for dense records, from the curve, within some 3e-3 nats, for
sparse and factored ones. H_s is the student's at the same temperature, C the number of classes.

The weights are those of Su et al. 2025 (EA-KD, arXiv 2311.13621, entropy temperature 3): positions where the teacher
has more to say than one class count more, and those where the student is unsure too up to twice as much; a position
the teacher is certain of counts nothing. Constants for the gradient, as in the authors' program: a student that could
lower its loss by being sure of itself would learn that. They are in nats and not scaled to mean 1: a weighted term is
about ½ H_t (1 + H_s / log C) times the plain one on the mean position, and `weight` is to be chosen with that in mind.
Cost: an entropy temperature makes the loss, without the head's products, 2.3 times as long as cross-entropy (49,152
classes, 1 thread).

Matching says how sure to be, not of what, and its gradient −2 (H_s − H_t) q (log q + H_s) is 0 at a uniform student:
it goes beside a divergence, at a temperature of 1 or 2. A squared difference of entropies falls as 1/T⁴ once T is above
the spread of the logits, so that T² keeps the gradient's size up to there and no further. For logits of spread 3 and a
student off by 1, T² times the gradient at T = 1, 2, 4, 8 is .08, .14, .11, .04 for 4 classes, .40, .12, .01, .002 for
1000 (forward KL: .20, .28, .35, .37 and .17, .08, .04, .03). Cost: beside forward KL 3.5 times cross-entropy.

P positions, V classes.
"""

import math

import torch
from torch import Tensor

from kdcache.targets.record import TeacherTargets

__all__ = ["entropy_weights", "student_entropy", "teacher_entropy"]


def entropy_weights(teacher_P: Tensor, student_P: Tensor, num_classes: int) -> Tensor:
    """½ H_t (1 + H_s / log C), [P], of two entropies in nats."""
    return 0.5 * teacher_P * (1 + student_P / math.log(max(num_classes, 2)))


def student_entropy(logits_PV: Tensor, temperature: float, scratch_PV: Tensor) -> Tensor:
    """Entropy of softmax(logits / T), [P], nats. logits_PV: their row maxima are 0. scratch_PV: overwritten."""
    torch.mul(logits_PV, 1 / temperature, out=scratch_PV).exp_()
    total_P = scratch_PV.sum(-1)
    mean_P = scratch_PV.mul_(logits_PV).sum(-1) / total_P
    return (total_P.log() - mean_P / temperature).clamp_(min=0)


def teacher_entropy(targets: TeacherTargets, temperature: float, rows: int) -> Tensor:
    """targets.entropy(T), [P]; of wide records so many rows at a time, for it takes several times their memory."""
    if not targets.wide:
        return targets.entropy(temperature)
    blocks = range(0, max(targets.num_positions, 1), rows)
    return torch.cat([targets[start : start + rows].entropy(temperature) for start in blocks])
