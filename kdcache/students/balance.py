"""The balancing loss of a mixture of experts: what keeps its router from sending all tokens to the same few experts.

transformers' own, of the model's own module (Fedus, Zoph, Shazeer 2022, arXiv 2101.03961, equations 4 to 6), over the
real tokens of a micro-batch and all layers, with the weight router_aux_loss_coef. It is on where the config's
output_router_logits is, transformers' own switch. It is a mean and no sum over positions: a micro-batch counts in the
step as its positions do, and the value depends a little on how a step is cut into micro-batches.

B examples, L tokens.
"""

import sys
from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any, Literal

from torch import Tensor

from kdcache.losses.beside_term import BesideTerm, Pass
from kdcache.progress import say

if TYPE_CHECKING:
    from torch import nn

__all__ = ["BalanceTerm", "balancing_loss", "terms_of_student", "warn_unbalanced"]

EXPERTS = ("num_local_experts", "num_experts", "n_routed_experts", "moe_num_experts")
CHOSEN = ("num_experts_per_tok", "moe_k", "moe_top_k", "top_k")


class BalanceTerm(BesideTerm):
    """A term that the student brings along, after those of the settings."""

    name: Literal["balance"] = "balance"

    @property
    def model_arguments(self) -> Mapping[str, Any]:
        return {"output_router_logits": True}

    def sum(self, module: "nn.Module | None", seen: Pass) -> Tensor:
        """As often as there are positions."""
        value = balancing_loss(seen.student, seen.output.router_logits, seen.real_BL)
        return seen.supervision.num_positions * value


def terms_of_student(student: Any) -> tuple[BalanceTerm, ...]:
    """What a student adds to the terms of a run: the balancing loss of a mixture of experts."""
    weight = balancing_weight(student)
    return () if weight is None else (BalanceTerm(weight=weight),)


def balancing_weight(student: Any) -> float | None:
    """What a mixture's balancing loss counts; None where there is none, it is switched off, or it cannot be had."""
    config = student.config.get_text_config()
    weight = float(getattr(config, "router_aux_loss_coef", None) or 0.0)
    if not weight or not getattr(config, "output_router_logits", False):
        return None
    return weight if _can_be_had(student) else None


def warn_unbalanced(student: Any) -> None:
    """A line for a mixture of experts whose experts nothing balances."""
    config = student.config.get_text_config()
    if not any((getattr(config, key, None) or 0) > 1 for key in EXPERTS) or balancing_weight(student) is not None:
        return
    what = f"warning: nothing balances the experts of {type(student).__name__}"
    if not _can_be_had(student):
        say(f"{what}: transformers has no balancing loss for it here; watch that none goes unused")
        return
    say(
        f"{what}; set output_router_logits to true and router_aux_loss_coef above 0 in its config "
        f"(now {getattr(config, 'output_router_logits', False)} and {getattr(config, 'router_aux_loss_coef', None)})"
    )


def balancing_loss(student: Any, routers: Sequence[Tensor], real_BL: Tensor) -> Tensor:
    """The loss of one forward pass, a scalar. routers: each layer's logits of the experts. real_BL: 0 for padding."""
    gates = tuple(logits.flatten(0, -2) for logits in routers)
    loss: Tensor = _function(student)(gates, gates[0].shape[-1], _chosen(student), real_BL)
    return loss


def _can_be_had(student: Any) -> bool:
    """Whether it is a language model whose module has the function and whose config says how many experts it takes."""
    generates = student.get_output_embeddings() is not None
    return generates and _function(student) is not None and _chosen(student) is not None


def _function(student: Any) -> Any:
    return getattr(sys.modules[type(student).__module__], "load_balancing_loss_func", None)


def _chosen(student: Any) -> int | None:
    config = student.config.get_text_config()
    return next((getattr(config, key) for key in CHOSEN if getattr(config, key, None)), None)
