"""When a run saves and when it leaves before its end, agreed by all ranks without a collective of its own.

Every rank adds its votes to the numbers that the ranks sum at the start of each step anyway: whether it was sent
SIGINT or SIGTERM, and, by rank 0's clock alone, whether the time of the run is over and whether a checkpoint is due.
So all ranks hear the same after the same step, write one checkpoint together and leave.
"""

import time
from collections.abc import Callable, Sequence
from pathlib import Path

from kdcache.errors import RunStoppedError
from kdcache.launcher import World
from kdcache.train.settings import CheckpointConfig

__all__ = ["Leaving", "how_to_go_on"]

VOTES = ("SIGINT", "SIGTERM", "time", "save")


class Leaving:
    """The votes of this rank, and what all ranks said last.

    Args:
        config: When to save, and when the time is over.
        world: This rank. Rank 0's clock decides.
        asked: Gives the signal that this rank was sent, such as "SIGTERM", or None.

    Attributes:
        reason: Why the run is to leave after this step; None to go on.
    """

    def __init__(self, config: CheckpointConfig, world: World, asked: Callable[[], str | None] = lambda: None) -> None:
        self.config, self.world, self._asked = config, world, asked
        self._start = self._saved = time.monotonic()
        self.reason: str | None = None
        self._save = False

    def votes(self) -> list[int]:
        now = time.monotonic()
        limit, minutes = self.config.stop_after_minutes, self.config.minutes
        over = self.world.first and limit is not None and now - self._start >= 60 * limit
        due = self.world.first and minutes > 0 and now - self._saved >= 60 * minutes
        asked = self._asked()
        return [asked == "SIGINT", asked == "SIGTERM", over, due]

    def hear(self, counts: Sequence[int]) -> None:
        """counts: the votes of all ranks, summed."""
        heard = [name for name, count in zip(VOTES, counts, strict=True) if count]
        self._save = bool(heard)
        self.reason = next((name for name in heard if name != "save"), None)

    def is_due(self, step: int, total_steps: int) -> bool:
        """Whether a checkpoint is to be written after this step."""
        every = self.config.every
        return self._save or step == total_steps or (every > 0 and step % every == 0)

    def saved(self) -> None:
        """A checkpoint was written just now."""
        self._saved = time.monotonic()

    def check(self, step: int, total_steps: int) -> None:
        """Raises RunStoppedError after a step that was the last for now; its checkpoint is written."""
        if self.reason is None:
            return
        by = f"stopped by {self.reason}"
        if self.reason == "time":
            by = f"the time is over (checkpoint.stop_after_minutes {self.config.stop_after_minutes:g})"
        raise RunStoppedError(
            f"{by} after step {step} of {total_steps}, whose checkpoint is written; run the same command again to go on"
        )


def how_to_go_on(output: Path | None) -> str:
    """What the same command will do after a failure. output: of the run, None where it is not known."""
    if output is None:
        return "run the same command again"
    if next((output / "checkpoints").glob("step-????????/kdcache.json"), None) is not None:
        return "run the same command again to go on from the last checkpoint"
    return "no checkpoint was written yet: the same command begins at step 0 again"
