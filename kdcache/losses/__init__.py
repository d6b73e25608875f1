"""Losses of a student against cached targets, none of which holds positions × vocabulary at one time.

registry      DIVERGENCES and TERMS by name, register_divergence and register_term
term          Term: what every loss term is; the families softmax_term, output_term and beside_term
divergence_term, cross_entropy_term, entropy_term, bottleneck_term, squared_error, cosine
              the terms: settings of each, what it needs, and what it computes
divergence    Divergence: what every kind of divergence is
forward_kl, reverse_kl, jensen_shannon, skew_kl, total_variation, alpha_beta
              the divergences: parameters, summands and slopes of each
distillation  distillation_loss, the public function on logits that exist
reference     the teacher's side: dense, coarsened to the certain entries, weights of a sample, one-hot, or its entropy
softmax       SharedSoftmax: slopes into the gradient of a block of logits, in place
softmax_terms the terms of a softmax together, on one block of rows after another
terms         LossTerms: a weighted sum of terms, its value and its closed-form gradient on a chunk of logits
entropy       entropy weights of positions, and the entropies of teacher and student
bottleneck    Bottleneck: a stochastic code of the student's hidden state, and what it says of the teacher's features
temperature   the usual temperature schedule and the source article's
reduction     the mean over classes
surplus       Surplus: columns of a student above the teacher's classes
supervision   Supervision: what the positions of a batch are compared with
fused         FusedLoss: the output layer and the loss together, chunk by chunk
unfused       loss_of_logits: the same loss on logits that exist
metrics       Sums: the label's negative log-likelihood, KL to the teacher, agreement

This package knows nothing of files and trainers.

How to add a divergence
-----------------------
Write one file with a subclass of `Divergence`, and call `kdcache.register_divergence` on it:

1. `kind: Literal["mine"] = "mine"` is its name; every other field is a parameter that stands beside `kind` in a
   settings file. `Annotated[float, Range(lambda a: 0 < a < 1, "0 < a < 1")]` says which numbers it may be.
2. `summands(pair)` is what each compared class adds to it, `slopes(pair)` its derivative by log q of each class. `pair`
   has p_PC, log_p_PC, q_PC and log_q_PC. The compared classes are all classes, or the entries of a record and its tail
   as one class. Padding is taken out of both afterwards: write the plain formula.
3. A divergence that changes its meaning when classes are merged says so in `cannot_merge`.

tests/extending/hellinger.py is such a file. `module: my_file` in a run's settings imports it, and then
`terms: [{name: divergence, kind: mine}]` uses it.

How to add a term
-----------------
Write one file with a subclass of a family, and call `kdcache.register_term` on it. Its fields are its settings, and the
properties `needs_…` say what a cache must hold for it.

- `SoftmaxTerm`: `form` says what it is compared with, `value` and `slopes` are functions of log q as above.
- `OutputTerm`: `value_and_slopes(outputs_PK, values_PK, missing_PK)` of raw outputs; squared_error.py is an example.
- `BesideTerm`: `sum(module, seen)` of a whole forward pass, with what `make_module` made; bottleneck_term.py.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcache.losses.beside_term import BesideTerm, Pass
    from kdcache.losses.distillation import distillation_loss
    from kdcache.losses.divergence import Divergence, Range
    from kdcache.losses.output_term import OutputTerm
    from kdcache.losses.reference import Pair
    from kdcache.losses.softmax_term import SoftmaxTerm

_HOME = {
    "BesideTerm": "beside_term",
    "Divergence": "divergence",
    "OutputTerm": "output_term",
    "Pair": "reference",
    "Pass": "beside_term",
    "Range": "divergence",
    "SoftmaxTerm": "softmax_term",
    "distillation_loss": "distillation",
}
__all__ = [
    "BesideTerm",
    "Divergence",
    "OutputTerm",
    "Pair",
    "Pass",
    "Range",
    "SoftmaxTerm",
    "distillation_loss",
]


def __getattr__(name: str) -> Any:
    """On first use: some of them import torch."""
    if name not in _HOME:
        raise AttributeError(f"module 'kdcache.losses' has no attribute {name!r}")
    return getattr(import_module(f"kdcache.losses.{_HOME[name]}"), name)
