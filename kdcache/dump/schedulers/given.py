"""A worker's side of the handing: it asks for a unit when it has room for one, and tells what became of it.

What it tells is kept until it is fetched, so that nothing of a dump waits for a network.
"""

import threading
from collections.abc import Iterator, Sequence
from contextlib import contextmanager
from queue import SimpleQueue

from kdcache.dump.handing import Handing
from kdcache.dump.schedulers.events import Begun, Committed, Computed, Event, Wants

__all__ = ["Given", "Mailbox"]


class Mailbox:
    """Events, from any thread to the one that fetches them."""

    def __init__(self) -> None:
        self._events: list[Event] = []
        self._some = threading.Condition()

    def tell(self, event: Event) -> None:
        with self._some:
            last = self._events[-1] if self._events else None
            if isinstance(event, Computed) and isinstance(last, Computed):
                self._events[-1] = Computed(last.tokens + event.tokens)
            else:
                self._events.append(event)
            self._some.notify()

    def fetch(self) -> list[Event]:
        """What was told since the last time; waits until there is something."""
        with self._some:
            self._some.wait_for(lambda: self._events)
            fetched, self._events = self._events, []
        return fetched


class Given(Handing):
    """Any unit may be given, one after the other."""

    finishes = False

    def __init__(self, name: str, mailbox: Mailbox) -> None:
        self.name, self.speaks_as = name, f"{name}: "
        self._mailbox = mailbox
        self._units: SimpleQueue[int | None] = SimpleQueue()
        self._closed = False

    def give(self, unit: int) -> None:
        """What it asked for."""
        self._units.put(unit)

    def finish(self) -> None:
        """Every unit stands: finish the cache."""
        self.finishes = True
        self.close()

    def share(self, num_units: int) -> range:
        return range(num_units)

    @contextmanager
    def opened(self, todo: Sequence[int], own: int) -> Iterator[None]:
        self._mailbox.tell(Begun([*todo], own))
        yield

    def take(self) -> int | None:
        if self._closed:
            return None
        self._mailbox.tell(Wants())
        return self._units.get()

    def computed(self, unit: int, tokens: int) -> None:
        self._mailbox.tell(Computed(tokens))

    def committed(self, unit: int) -> None:
        self._mailbox.tell(Committed(unit))

    def close(self) -> None:
        self._closed = True
        self._units.put(None)
