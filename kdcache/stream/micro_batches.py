"""MicroBatches: a loader's micro-batches one by one, an epoch for each `for`, as trainers take a DataLoader.

The state counts a step once its last micro-batch was handed out. A run that stops in the middle of one, where no update
has happened, does that step again.
"""

from collections.abc import Callable, Iterator, Mapping
from typing import TYPE_CHECKING, Any

from kdcache.store.batch import Batch

if TYPE_CHECKING:
    from kdcache.stream.loader import Loader

__all__ = ["MicroBatches"]


class MicroBatches:
    """An iterable whose every `for` gives the rest of an epoch, and whose length is the micro-batches of a whole one.

    Args:
        loader: Where they come from.
        per_step: Micro-batches of a step.
        collate: What is made of each, such as a Collator. None: nothing.
    """

    def __init__(self, loader: "Loader", per_step: int, collate: Callable[[Batch], Any] | None = None) -> None:
        self.loader, self.per_step = loader, per_step
        self._collate = collate or (lambda batch: batch)
        self._state: dict[str, Any] | None = None

    def __len__(self) -> int:
        return self.loader.steps_per_epoch * self.per_step

    def __iter__(self) -> Iterator[Any]:
        ended = False
        while not ended:
            self._state = self.loader.state_dict()
            step = next(self.loader)
            ended = self.loader.at_the_end
            for number, batch in enumerate(step, 1):
                if number == len(step):
                    self._state = None
                yield self._collate(batch)

    def state_dict(self) -> dict[str, Any]:
        """The loader's, before the step that is not handed out whole."""
        return self.loader.state_dict() if self._state is None else self._state

    def load_state_dict(self, state: Mapping[str, Any]) -> None:
        """Go on after the last whole step of a state. Raises CacheError and ConfigError as the loader does."""
        self._state = None
        self.loader.load_state_dict(state)
