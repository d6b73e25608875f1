"""moved: a structure of dataclasses with each of its tensors elsewhere: on a device, in pinned memory.

The basis of a factored tail is large and one for all batches, so it goes its own way.
"""

import dataclasses
from collections.abc import Callable
from typing import Any

from torch import Tensor

from kdcache.targets.basis import Basis

__all__ = ["moved", "tensors_in"]


def moved(
    value: Any, of_tensor: Callable[[Tensor], Tensor], of_basis: Callable[[Basis], Basis] = lambda basis: basis
) -> Any:
    """The same structure with `of_tensor` of each tensor, inside dataclasses, mappings and sequences too."""

    def inside(part: Any) -> Any:
        return moved(part, of_tensor, of_basis)

    if isinstance(value, Tensor):
        return of_tensor(value)
    if isinstance(value, Basis):
        return of_basis(value)
    if isinstance(value, dict):
        return {key: inside(part) for key, part in value.items()}
    if isinstance(value, list | tuple):
        return type(value)(map(inside, value))
    if not dataclasses.is_dataclass(value) or isinstance(value, type):
        return value
    parts = {field.name: getattr(value, field.name) for field in dataclasses.fields(value)}
    there = {name: new for name, part in parts.items() if (new := inside(part)) is not part}
    return dataclasses.replace(value, **there) if there else value


def tensors_in(value: Any) -> list[Tensor]:
    """The tensors of such a structure but those of a basis, in the order in which `moved` meets them."""
    found: list[Tensor] = []

    def keep(tensor: Tensor) -> Tensor:
        found.append(tensor)
        return tensor

    moved(value, keep)
    return found
