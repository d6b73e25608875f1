"""moved: every tensor of a structure goes through the function, the basis its own way, and the rest stays."""

from dataclasses import dataclass

import torch
from torch import Tensor

import kdcache
from kdcache.targets.basis import Basis
from kdcache.targets.moving import moved


@dataclass(frozen=True)
class Inside:
    name: str
    tensors: dict[str, list[Tensor]]
    basis: Basis


def test_every_tensor_and_nothing_else() -> None:
    basis = Basis(torch.zeros(3, 2, dtype=torch.float16), torch.zeros(3))
    value = (Inside("a", {"x": [torch.ones(2), torch.ones(3)]}, basis), None, 5)
    inside, nothing, five = moved(value, lambda tensor: tensor + 1)
    assert (inside.name, nothing, five) == ("a", None, 5)
    assert [tensor.tolist() for tensor in inside.tensors["x"]] == [[2, 2], [2, 2, 2]]
    assert inside.basis is basis


def test_records_are_the_same_there() -> None:
    logits_PV = torch.randn(4, 30)
    targets = kdcache.compress(logits_PV, {"kind": "sampled", "exact_top_k": 4})
    seen: list[Tensor] = []

    def copied(tensor: Tensor) -> Tensor:
        seen.append(tensor)
        return tensor.clone()

    there = moved(targets, copied)
    assert type(there) is type(targets)
    assert {id(tensor) for tensor in seen} >= {id(targets.ids_PE), id(targets.inclusion_PE), id(targets.maximum_P)}
    assert there.ids_PE is not targets.ids_PE
    for temperature in (0.7, 1.0, 2.0):
        torch.testing.assert_close(there.log_partition(temperature), targets.log_partition(temperature))
        torch.testing.assert_close(there.entropy(temperature), targets.entropy(temperature))
