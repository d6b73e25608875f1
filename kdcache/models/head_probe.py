"""The one probe of a language model's head: can it be run apart from the body, and by what formula?

Two things are found out on eight tokens, at the same tolerance.

1. Does the model's own forward, run over given hidden states in place of its body, give the logits that the whole model
   gives? Then body and head can be run apart, whatever the head does (`replayed`).
2. Are the logits cap(scale · (W h + b)), with the scale and the soft-cap that the config names, or with neither? The
   hidden states are first made so large that logits reach 50: fresh weights give logits near 0, where no soft-cap
   shows. Logits of −inf belong to classes that the model never gives, and must be the same at every token.

A head that rounds its logits to half precision passes: the tolerance is a hundredth of a logit, and a thousandth of the
largest one.

L tokens, D hidden width, V classes.
"""

from dataclasses import dataclass
from functools import partial
from typing import Any

import torch
from torch import Tensor, nn

from kdcache.models.modes import evaluating
from kdcache.models.replay import replayed
from kdcache.models.wide_linear import WideLinear
from kdcache.targets.never import is_never, with_stand_ins
from kdcache.targets.output_layer import PLAIN, PostFunction

__all__ = ["Found", "agree", "named_post", "post_of", "probe"]

LARGE_LOGIT = 50.0
RELATIVE, OF_LARGEST = 1e-2, 1e-3
_PROBE = torch.arange(1, 9)[None]
# What the config of a model calls a factor of its logits, and its power: Cohere, Falcon-H1, Granite.
_SCALES = {"logit_scale": 1, "lm_head_multiplier": 1, "logits_scaling": -1}


@dataclass(frozen=True)
class Found:
    """What a probe found.

    Attributes:
        num_rows: columns of the logits.
        dtype: of the logits; half precision where the head rounds them.
        splits: whether head and body can be run apart.
        post: what the model does to the output layer's logits; None where that is not known.
        never_V: bool, classes that are never given; None where there are none.
    """

    num_rows: int
    dtype: torch.dtype
    splits: bool = False
    post: PostFunction | None = None
    never_V: Tensor | None = None


@torch.no_grad()
def probe(model: Any, layer: nn.Module | None) -> Found:
    """Finds out what is true of a language model's head. The model is left as it was.

    Args:
        model: with its weights, on its device.
        layer: its output layer, None where it has none to show.
    """
    body = model.base_model
    with evaluating(model):
        embeddings = model.get_input_embeddings()
        ids_1L = _PROBE.to(model.device) % getattr(embeddings, "num_embeddings", 1 << 30)
        plain_LV = model(input_ids=ids_1L, use_cache=False).logits[0]
        nothing = Found(plain_LV.shape[1], plain_LV.dtype)
        if body is model:
            return nothing
        try:
            hidden_LD = body(input_ids=ids_1L, use_cache=False).last_hidden_state[0]
            if not agree(replayed(model, hidden_LD), plain_LV):
                return nothing
        except (TypeError, AttributeError, RuntimeError):
            return nothing
        never_V = plain_LV.isneginf().all(0)
        some_never_V = never_V if bool(never_V.any()) else None
        post = None if layer is None else post_of(model, layer, hidden_LD, some_never_V)
        return Found(plain_LV.shape[1], plain_LV.dtype, True, post, some_never_V)


@torch.no_grad()
def post_of(model: Any, layer: nn.Module, hidden_LD: Tensor, never_V: Tensor | None) -> PostFunction | None:
    """What a model does to the logits of its output layer, told from large logits; None where that is not known.

    Args:
        model: one whose head can be run apart from its body.
        layer: its output layer.
        hidden_LD: some hidden states.
        never_V: bool, the classes that it never gives.
    """
    if not isinstance(layer, nn.Linear) or layer.weight.is_meta:
        return None
    # Past the hooks of the layer: whoever uses the formula has its weight alone.
    kind: Any = WideLinear if isinstance(layer, WideLinear) else nn.Linear
    linear = partial(kind.forward, layer)
    own_LD = hidden_LD.to(layer.weight.device)
    named = named_post(model.config)
    largest = float((linear(own_LD).float() * named.scale).abs().max())
    room = torch.finfo(hidden_LD.dtype).max / 4 / max(float(hidden_LD.abs().max()), 1e-6)
    large_LD = hidden_LD * min(LARGE_LOGIT / max(largest, 1e-6), room)
    wanted_LV = replayed(model, large_LD)
    for post in (named, PLAIN):
        got_LV = post.apply_(linear(large_LD.to(own_LD.device)).to(wanted_LV.device, torch.float32, copy=True))
        got_LV = got_LV[:, : wanted_LV.shape[1]]
        if got_LV.shape != wanted_LV.shape:
            return None
        if never_V is not None:
            got_LV = got_LV.masked_fill(never_V, -torch.inf)
        if agree(got_LV, wanted_LV):
            return post
    return None


def named_post(config: Any) -> PostFunction:
    """The scale and the soft-cap of a model's config."""
    config = config.get_text_config()
    scale = 1.0
    for name, power in _SCALES.items():
        value = getattr(config, name, None)
        scale *= (value if isinstance(value, int | float) and value else 1.0) ** power
    return PostFunction(scale, getattr(config, "final_logit_softcapping", None) or None)


def agree(got_LV: Tensor, wanted_LV: Tensor) -> bool:
    """Whether two blocks of logits are the same but for rounding."""
    got_LV, wanted_LV = with_stand_ins(got_LV), with_stand_ins(wanted_LV)
    never_LV = is_never(got_LV) & is_never(wanted_LV)
    got_LV, wanted_LV = got_LV.masked_fill(never_LV, 0.0), wanted_LV.masked_fill(never_LV, 0.0)
    return torch.allclose(got_LV, wanted_LV, rtol=RELATIVE, atol=OF_LARGEST * float(wanted_LV.abs().max()))
