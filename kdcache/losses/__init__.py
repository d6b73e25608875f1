"""Losses of a student against cached targets, none of which holds positions × vocabulary at one time.

divergence   distillation_loss, the public function on logits that exist, and the registry of kinds
forward_kl   forward Kullback-Leibler: dense, coarsened to the certain entries, or of sampled weights
terms        LossTerms: a weighted sum of terms, its value and its closed-form gradient on a chunk of logits
supervision  Supervision: what the positions of a batch are compared with
fused        FusedHead and FusedLoss: the LM head and the loss together, chunk by chunk
unfused      head_loss: the same loss on logits from a head that has a soft-cap or a scale
metrics      Sums: held-out loss, KL to the teacher, agreement

This package knows nothing of files and trainers.
"""
