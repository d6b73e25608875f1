"""Input embeddings with their last bit changed at random: what rounding does to a model's logits.

The bits that change are a function of a generator's state, so that several processes that run one model between them
can change the same ones.
"""

from collections.abc import Iterator
from contextlib import contextmanager, nullcontext
from typing import Any

import torch
from torch import Tensor, nn

__all__ = ["embeddings_of", "last_bit_changed", "last_bit_of"]


class _LastBit:
    """A forward hook that multiplies by 1 ± the dtype's epsilon."""

    def __init__(self, state: Tensor | None) -> None:
        self.generator = torch.Generator().manual_seed(0)
        if state is not None:
            self.generator.set_state(state)

    def __call__(self, _: nn.Module, given: Any, output: Any) -> Any:
        if not isinstance(output, Tensor):
            return output
        signs = torch.randint(0, 2, output.shape, generator=self.generator).to(output.device) * 2 - 1
        return output * (1 + torch.finfo(output.dtype).eps * signs).to(output.dtype)


def embeddings_of(model: Any) -> nn.Module | None:
    """A model's input embeddings; None where it does not say which they are."""
    try:
        found: nn.Module | None = model.get_input_embeddings()
    except (AttributeError, NotImplementedError):
        return None
    return found


@contextmanager
def last_bit_changed(model: Any, state: Tensor | None = None) -> Iterator[None]:
    """Input embeddings times 1 ± the dtype's epsilon, while this lasts.

    Args:
        model: Of transformers.
        state: Of the generator; None for that of its seed.
    """
    embeddings = embeddings_of(model)
    with nullcontext() if embeddings is None else embeddings.register_forward_hook(_LastBit(state)):
        yield


def last_bit_of(model: Any) -> Tensor | None:
    """The state of the generator that changes a model's embeddings now; None where none does."""
    hooks = getattr(embeddings_of(model), "_forward_hooks", {})
    return next((hook.generator.get_state() for hook in hooks.values() if isinstance(hook, _LastBit)), None)
