"""TailCurve: log-partition and mean of the tail at stored temperatures.

Λ(β) = log Σ_tail exp(β z), and Λ'(β) is the mean of z under the tail's softmax at β. With the certain entries
added back exactly they give the exact normaliser, tail mass and entropy of the whole row.

P positions, K stored temperatures.
"""

from dataclasses import dataclass

import torch
from torch import Tensor

from kdcache.errors import ConfigError

__all__ = ["TailCurve"]


@dataclass(frozen=True)
class TailCurve:
    """Tail moments of raw logits; an empty tail has log_partition −inf and mean 0."""

    temperatures: tuple[float, ...]
    log_partition_PK: Tensor
    mean_PK: Tensor

    def at(self, temperature: float) -> tuple[Tensor, Tensor]:
        """(log-partition P, mean P) of the tail at a stored temperature.

        Raises ConfigError for a temperature that the cache did not store.
        """
        for k, stored in enumerate(self.temperatures):
            if abs(stored - temperature) <= 1e-6 * stored:
                return self.log_partition_PK[:, k], self.mean_PK[:, k]
        raise ConfigError(
            f"temperature {temperature:g} is not in the cache: its records store "
            f"{', '.join(f'{t:g}' for t in self.temperatures)}; use one of these or dump again with "
            f"record.curve.temperatures including {temperature:g}"
        )

    def to(self, device: torch.device | str) -> "TailCurve":
        return TailCurve(self.temperatures, self.log_partition_PK.to(device), self.mean_PK.to(device))

    def __getitem__(self, index: slice | Tensor) -> "TailCurve":
        return TailCurve(self.temperatures, self.log_partition_PK[index], self.mean_PK[index])
