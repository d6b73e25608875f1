"""One thread of a rank that notices what the rank itself cannot while it computes or waits for the others.

Twice a second it looks whether the launcher is still there (ancestors.py) and for signals, which it sees at once:
Python's own handlers run between two lines of the main thread, which may be waiting for another rank for minutes, so
signals come through a socket (signal.set_wakeup_fd).

The first SIGINT or SIGTERM asks for a checkpoint and the end of the run after the step (leaving.py). A second one ends
the process at once. Launchers hand one Ctrl-C on by several ways, so what follows the first within a second is the
same request. A launcher that left because of the signal does not end its ranks while they write their checkpoint.
"""

import contextlib
import os
import select
import signal
import socket
import sys
import threading
import time
from collections.abc import Callable
from types import FrameType, TracebackType
from typing import Any, Self

from kdcache.progress import say
from kdcache.train.ancestors import Launchers

__all__ = ["Watch"]

LOOK_S = 0.5
SAME_REQUEST_S = 1.0
GRACE_S = 60.0
"""How long ranks whose launcher left because of a signal may take to write their checkpoint."""


class Watch:
    """with Watch() as watch: …; a thread and the handlers of two signals, until the block ends.

    asked: the first signal that came, such as "SIGTERM". checks: each is called twice a second from the thread; what
    it returns, a sentence to be said by this rank or "", and an exit status, ends the process."""

    def __init__(self) -> None:
        self.asked: str | None = None
        self.checks: list[Callable[[], tuple[str, int] | None]] = []
        self._asked_at = 0.0
        self._launchers = Launchers()
        self._ended = threading.Event()
        self._thread = threading.Thread(target=self._look, name="kdcache-watch", daemon=True)
        self._before: dict[int, Any] = {}

    def __enter__(self) -> Self:
        self._reading, self._writing = socket.socketpair()
        for end in (self._reading, self._writing):
            end.setblocking(False)
        if threading.current_thread() is threading.main_thread():
            self._wakeup_before = signal.set_wakeup_fd(self._writing.fileno(), warn_on_full_buffer=False)
            self._before = {kind: signal.signal(kind, _seen_by_the_thread) for kind in (signal.SIGINT, signal.SIGTERM)}
        self._thread.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._before:
            signal.set_wakeup_fd(self._wakeup_before)
            for number, handler in self._before.items():
                signal.signal(number, handler)
        self._ended.set()
        with contextlib.suppress(OSError):
            self._writing.send(b"\0")
        self._thread.join()
        self._reading.close()
        self._writing.close()

    def _look(self) -> None:
        while not self._ended.is_set():
            readable, _, _ = select.select([self._reading], [], [], LOOK_S)
            if readable:
                for number in self._reading.recv(4096):
                    self._signalled(number)
            self._check_launchers()
            for check in self.checks:
                if (found := check()) is not None:
                    _end(*found)

    def _signalled(self, number: int) -> None:
        if number not in (signal.SIGINT, signal.SIGTERM):
            return
        now = time.monotonic()
        if self.asked is None:
            self.asked, self._asked_at = signal.Signals(number).name, now
            say(f"{self.asked}: the run ends after this step, with a checkpoint; a second signal ends it at once")
        elif now - self._asked_at > SAME_REQUEST_S:
            _end(_by_first(f"ended at once by a second signal, {signal.Signals(number).name}"), 1)

    def _check_launchers(self) -> None:
        gone = self._launchers.gone()
        if gone is not None and (self.asked is None or time.monotonic() - self._asked_at > GRACE_S):
            _end(_by_first(f"the launcher, process {gone}, is gone, so its ranks end; run the same command again"), 1)


def _seen_by_the_thread(number: int, frame: FrameType | None) -> None:
    """Python writes to the wake-up socket only for signals that have a handler."""


def _by_first(words: str) -> str:
    """What rank 0 says for all."""
    return words if os.environ.get("RANK", "0") == "0" else ""


def _end(words: str, status: int) -> None:
    """Without clean-up: the main thread may be waiting for ever."""
    if words:
        with contextlib.suppress(OSError):
            print(f"kdcache: {words}", file=sys.stderr, flush=True)
    os._exit(status)
