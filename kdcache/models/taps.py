"""inputs_of and outputs_of: what a module of a model is called with, and what it gives, while a forward pass runs."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import Tensor, nn

__all__ = ["inputs_of", "outputs_of"]


@contextmanager
def inputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """What a module is called with while this lasts, call by call."""
    seen: list[Tensor] = []
    with module.register_forward_pre_hook(
        lambda _, given, named: seen.append(given[0] if given else next(iter(named.values()))), with_kwargs=True
    ):
        yield seen


@contextmanager
def outputs_of(module: nn.Module) -> Iterator[list[Tensor]]:
    """The first of what a module gives while this lasts, call by call."""
    seen: list[Tensor] = []
    with module.register_forward_hook(lambda _, given, output: seen.append(output[0])):
        yield seen
