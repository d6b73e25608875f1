"""decisions: a dense record of C logits as C records of two classes, yes and no, of independent Bernoullis.

P positions, C classes.
"""

import torch

from kdcache.targets.dense_targets import DenseTargets
from kdcache.targets.never import NEVER
from kdcache.targets.record import TeacherTargets

__all__ = ["decisions"]


def decisions(targets: TeacherTargets) -> TeacherTargets:
    """Position by position, for each class the distribution over (yes, no) that is the softmax of (its logit, 0).

    Args:
        targets: Records that hold every class, [P, C].

    Returns:
        Records of P · C positions and two classes, that hold both.
    """
    logits = targets.logits_PE.clamp(min=NEVER).flatten()
    maximum = logits.clamp(min=0)
    relative = torch.stack([logits - maximum, -maximum], -1)
    return DenseTargets.of(relative, maximum)
