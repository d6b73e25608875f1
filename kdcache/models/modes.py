"""evaluating: a module in eval mode for a while, and each of its submodules as it was afterwards."""

from collections.abc import Iterator
from contextlib import contextmanager

from torch import nn

__all__ = ["evaluating"]


@contextmanager
def evaluating(module: nn.Module) -> Iterator[None]:
    """Eval mode while this lasts; each submodule then gets back the flag that it had, whatever its parent's is."""
    before = [(each, each.training) for each in module.modules()]
    module.eval()
    try:
        yield
    finally:
        for each, training in before:
            each.training = training
