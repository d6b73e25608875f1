"""Which step takes which examples of which lanes. Pure, and the same at every world size.

Where C lanes divide a global batch of G, each step takes the next G / C examples of every lane. Where G divides C, the
lanes are C / G teams of G that take turns, and a step takes the next example of each lane of one team: lane l is of
team l mod (C / G), so that a rank that owns neighbouring lanes owns as many of each team.
"""

from dataclasses import dataclass
from typing import Any, TypeVar

import numpy as np

__all__ = ["Rota"]

_Lanes = TypeVar("_Lanes", int, np.ndarray)
_Numbers = TypeVar("_Numbers", int, np.ndarray)


@dataclass(frozen=True, slots=True)
class Rota:
    """Attributes:
    per_lane: Examples that a step takes of a lane.
    teams: How many take turns; 1: every step takes of every lane.
    """

    per_lane: int
    teams: int

    @classmethod
    def of(cls, global_batch: int, lanes: int) -> "Rota":
        """Of lanes that divide global_batch, or that it divides."""
        return cls(max(global_batch // lanes, 1), max(lanes // global_batch, 1))

    def offset(self, lane: _Lanes, step: int) -> _Lanes:
        """The lane's offset of the first example that this step or a later one takes."""
        return (step + self.teams - 1 - lane % self.teams) // self.teams * self.per_lane

    def step(self, lane: Any, offset: _Numbers) -> _Numbers:
        """The step that takes the example at this offset of a lane."""
        found: _Numbers = offset // self.per_lane * self.teams + lane % self.teams
        return found

    def place(self, lane: _Lanes, offset: _Numbers) -> tuple[_Numbers, _Lanes]:
        """Of the same example: which of the lane's in its step, and which lane of those that the step takes of."""
        return offset % self.per_lane, lane // self.teams

    def sample(self, lane: np.ndarray, offset: np.ndarray, owned: range) -> np.ndarray:
        """Which of a rank's samples the same examples are, counted from step 0, int64. owned: the rank's lanes."""
        place, of_step = self.place(lane, offset)
        lanes = len(owned) // self.teams
        return (self.step(lane, offset) * self.per_lane + place) * lanes + of_step - owned.start // self.teams
