"""Part: one comparison. A function that gives rows, and one that makes Markdown of them."""

from collections.abc import Callable
from dataclasses import dataclass
from importlib import import_module
from typing import Any

__all__ = ["PARTS", "Part", "Rows", "load"]

Rows = dict[str, Any]
"""What JSON can hold."""

PARTS = (
    "dump",
    "compression_cost",
    "engines",
    "step",
    "loss",
    "loaders",
    "lengths",
    "planning",
    "record_noise",
    "quality",
    "factored",
    "head_product",
    "integrity",
    "scale",
    "checkpoints",
    "gpu",
)
"""The files of tests/bench that are parts, in the order of the page."""


@dataclass(frozen=True, kw_only=True)
class Part:
    """One comparison.

    Attributes:
        name: Of its file and of its result.
        title: A heading of the page.
        minutes: About how long it takes on two quiet cores.
        run: Makes the rows; small ones if its argument, quick, is true.
        render: Makes Markdown of the rows, without running anything.
        peers: It imports other people's packages itself, and so runs in their environment.
        usual: Whether it runs where no part is named.
    """

    name: str
    title: str
    minutes: float
    run: Callable[[bool], Rows]
    render: Callable[[Rows], str]
    peers: bool = False
    usual: bool = True


def load(name: str) -> Part:
    part: Part = import_module(f"tests.bench.{name}").PART
    return part
