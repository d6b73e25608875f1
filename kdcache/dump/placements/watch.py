"""Watch: how the ranks of a replica learn that one of them is gone, whatever their main threads wait for.

A thread on each rank adds to the rank's beat in the replica's store once a second, and looks whether the others' beats
go on and whether one of them left a word. A rank that was killed is so missed after 30 s by all, or at once where the
connection to it breaks: gloo's, or that to the store on the first rank. The main thread then ends by itself, or, where
it waits in a collective that nobody will join any more, as NCCL's do, the process is ended.
"""

import json
import os
import sys
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass

from torch._C._distributed_c10d import Store

__all__ = ["FAULT", "Fault", "Watch"]

FAULT = "fault"
"""The key of the word that a failing rank leaves."""
INTERVAL_S, SILENCE_S, GRACE_S = 1.0, 30.0, 10.0


@dataclass(frozen=True)
class Fault:
    """Why a replica ends.

    Attributes:
        words: Of an error, or what is known of a rank that is gone.
        status: To exit with.
        told: Whether the rank that failed has said it.
    """

    words: str
    status: int = 1
    told: bool = False

    def as_json(self) -> str:
        """For the store."""
        return json.dumps(asdict(self))


class Watch(threading.Thread):
    """The thread of one rank.

    Args:
        connect: Opens a connection to the store, for this thread alone.
        own: This rank's number among all ranks.
        others: Those of the other ranks; the store is on the first of them all.
        last_word: Called when the main thread does not end, with the fault; says whether to print it.

    Attributes:
        fault: Why the replica ends, once that is known.
    """

    def __init__(
        self, connect: Callable[[], Store], own: int, others: Sequence[int], last_word: Callable[[Fault], bool]
    ) -> None:
        super().__init__(name="replica-watch", daemon=True)
        self._connect, self._own, self._others, self._last_word = connect, own, others, last_word
        self._stop, self._known = threading.Event(), threading.Event()
        self.fault: Fault | None = None

    def stop(self) -> None:
        """The main thread has come to its end."""
        self._stop.set()

    def wait(self, seconds: float) -> Fault | None:
        """The fault, if it becomes known within so many seconds."""
        self._known.wait(seconds)
        return self.fault

    def run(self) -> None:
        """Beat and look, until the end."""
        try:
            self.fault = self._look_on(self._connect())
        except RuntimeError:
            gone = min(self._own, *self._others)
            self.fault = Fault(f"rank {gone}, the first of this replica, is gone")
        if self.fault is None or self._stop.is_set():
            return
        self._known.set()
        if not self._stop.wait(GRACE_S):
            if self._last_word(self.fault):
                print(f"kdcache: {self.fault.words}", file=sys.stderr, flush=True)
            os._exit(self.fault.status)

    def _look_on(self, store: Store) -> Fault | None:
        heard = {rank: (0, time.monotonic()) for rank in self._others}
        while not self._stop.wait(INTERVAL_S):
            store.add(_beat(self._own), 1)
            if store.check([FAULT]):
                return Fault(**json.loads(store.get(FAULT)))
            for rank, (beats, when) in heard.items():
                if (now := store.add(_beat(rank), 0)) != beats:
                    heard[rank] = now, time.monotonic()
                elif time.monotonic() - when > SILENCE_S:
                    return Fault(f"rank {rank}, of the same replica, has not been heard of for {SILENCE_S:.0f} s")
        return None


def _beat(rank: int) -> str:
    return f"beat/{rank}"
