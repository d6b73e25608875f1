"""Losses of a student against cached targets, none of which holds positions × vocabulary at one time.

divergence   distillation_loss, the public function on logits that exist
kinds        the kinds of divergence and the range of their parameters
entropy      entropy weights of positions, and entropies to match
bottleneck   Bottleneck: a stochastic code of the student's hidden state, and what it says of the teacher's features
temperature  the usual temperature schedule and the source article's
reference    the teacher's side: dense, coarsened to the certain entries, weights of a sample, one-hot, or its entropy
forward_kl, reverse_kl, jensen_shannon, skew_kl, total_variation, alpha_beta
             the divergences: value and slopes of each
softmax      SharedSoftmax: slopes into the gradient of a block of logits, in place
surplus      Surplus: columns of a student above the teacher's classes
terms        LossTerms: a weighted sum of terms, its value and its closed-form gradient on a chunk of logits
supervision  Supervision: what the positions of a batch are compared with
fused        FusedHead and FusedLoss: the LM head and the loss together, chunk by chunk
unfused      head_loss: the same loss on logits from a head that has a soft-cap or a scale
metrics      Sums: held-out loss, KL to the teacher, agreement

This package knows nothing of files and trainers.
"""

from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcache.losses.divergence import distillation_loss

__all__ = ["distillation_loss"]


def __getattr__(name: str) -> Any:
    """On first use: the function imports torch."""
    if name != "distillation_loss":
        raise AttributeError(f"module 'kdcache.losses' has no attribute {name!r}")
    from kdcache.losses import divergence

    return divergence.distillation_loss
