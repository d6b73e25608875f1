"""Rows of logits with the shapes that matter.

P positions, V classes.
"""

from collections.abc import Callable

import torch
from torch import Tensor


def zipf(P: int, V: int, generator: torch.Generator) -> Tensor:
    """p ∝ rank^−s with noise, as words are."""
    exponents = torch.linspace(0.8, 2.0, P)[:, None]
    noise = torch.randn(P, V, generator=generator) * torch.linspace(0.2, 1.5, P)[:, None]
    return (noise - exponents * torch.arange(1, V + 1).log())[:, torch.randperm(V, generator=generator)]


def student_t(P: int, V: int, generator: torch.Generator) -> Tensor:
    """Few classes far above the rest: the worst for interpolation between inverse temperatures."""
    scale = torch.randn(6, P, V, generator=generator).square().mean(0).sqrt()
    return 2 * torch.randn(P, V, generator=generator) / scale


def normal(P: int, V: int, generator: torch.Generator) -> Tensor:
    """From nearly flat to sharp."""
    return torch.randn(P, V, generator=generator) * torch.linspace(1, 4, P)[:, None]


def two_kinds(P: int, V: int, generator: torch.Generator) -> Tensor:
    """A sure teacher: one class far ahead, a few plausible, a seventh of the vocabulary hardly used."""
    logits = torch.randn(P, V, generator=generator) * 2.5 - 3
    logits[:, ::7] -= torch.rand(P, len(range(0, V, 7)), generator=generator) * 15
    logits[:, :40] += 7
    logits[torch.arange(P), torch.randint(V, (P,), generator=generator)] += 16
    return logits


SHAPES: dict[str, Callable[[int, int, torch.Generator], Tensor]] = {
    "zipf": zipf,
    "student_t": student_t,
    "normal": normal,
    "two_kinds": two_kinds,
}


def make_rows(shape: str, P: int, V: int, seed: int = 0) -> Tensor:
    """float32 logits [P, V]."""
    return SHAPES[shape](P, V, torch.Generator().manual_seed(seed + V))


def plain(logits_PV: Tensor, temperature: float) -> tuple[Tensor, Tensor, Tensor]:
    """log p [P, V], log-partition [P] and entropy [P], by their formulas in float64."""
    scaled_PV = logits_PV.double() / temperature
    log_partition_P = scaled_PV.logsumexp(-1)
    log_probs_PV = scaled_PV - log_partition_P[:, None]
    return log_probs_PV, log_partition_P, -(log_probs_PV.exp() * log_probs_PV).sum(-1)
