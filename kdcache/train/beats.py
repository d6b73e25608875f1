"""Heartbeats of the ranks, so that one that hangs is named instead of waited for.

Each rank's thread writes a line into the common store (a connection of its own to torch.distributed's TCPStore on
rank 0) six times per limit, at most each 5 s: a count, the step, and whether the main thread waits for the others at
the start of a step. Rank 0 reads all lines. A rank hangs whose count stands still for the limit (its process is
stopped, its host is gone), or that does not come to a step at which others have waited for the limit (its reading
hangs, say). Rank 0 says which and all end; when rank 0 itself does not answer, rank 1 says so.

A rank that fails says so in the store too (distributed.py). The others may be waiting for it inside NCCL, which does
not notice, so they end after GRACE_S. Cost: a few hundred bytes per rank and beat, nothing per step. Not for a rank
that hangs in an evaluation or a checkpoint while its process lives: those take as long as they take.
"""

import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import dataclass
from typing import Any

from kdcache.launcher import World
from kdcache.train.distributed import STATUS

__all__ = ["Beat", "Beats", "Judge"]

VERDICT = "kdcache/hangs"
GRACE_S = 10.0
LONGEST_INTERVAL_S = 5.0


@dataclass(frozen=True)
class Beat:
    """What a rank says of itself. who: "process 12 on host"."""

    count: int
    step: int
    waiting: bool
    who: str

    def to_text(self) -> str:
        return f"{self.count} {self.step} {int(self.waiting)} {self.who}"

    @classmethod
    def of_text(cls, text: str) -> "Beat":
        count, step, waiting, who = text.split(" ", 3)
        return cls(int(count), int(step), waiting == "1", who)


class Judge:
    """Finds the ranks that hang, from what each of them said last. Knows no store; times are in seconds."""

    def __init__(self, size: int, limit_s: float, now: float) -> None:
        self.limit_s = limit_s
        self._last: list[Beat | None] = [None] * size
        self._heard = [now] * size
        self._arrived: list[float | None] = [None] * size

    def hear(self, beats: Sequence[Beat | None], now: float) -> None:
        for rank, beat in enumerate(beats):
            last = self._last[rank]
            if beat is None or beat == last:
                continue
            self._heard[rank] = now
            if not beat.waiting:
                self._arrived[rank] = None
            elif last is None or not last.waiting or last.step != beat.step:
                self._arrived[rank] = now
            self._last[rank] = beat

    def forgive(self, now: float) -> None:
        """Begin anew: the judge itself was stopped for a while."""
        self._heard = [now] * len(self._heard)
        self._arrived = [None if arrived is None else now for arrived in self._arrived]

    def verdict(self, now: float) -> str | None:
        """Which ranks hang, and how that is known."""
        silent = [rank for rank, heard in enumerate(self._heard) if now - heard > self.limit_s]
        if silent:
            return f"{self._named(silent)}: nothing was heard of it for {self.limit_s:.0f} s"
        waiting = [rank for rank, arrived in enumerate(self._arrived) if arrived and now - arrived > self.limit_s]
        steps = {beat.step for rank in waiting if (beat := self._last[rank]) is not None}
        late = [
            rank
            for rank, beat in enumerate(self._last)
            if steps and (beat is None or not beat.waiting or beat.step not in steps)
        ]
        if not late:
            return None
        return f"{self._named(late)}: rank {waiting[0]} waited for it at step {max(steps) + 1} for {self.limit_s:.0f} s"

    def _named(self, ranks: Sequence[int]) -> str:
        names = []
        for rank in ranks[:8]:
            beat = self._last[rank]
            names.append(f"rank {rank}" + ("" if beat is None else f" ({beat.who}, step {beat.step + 1})"))
        more = f" and {len(ranks) - 8} more" if ranks[8:] else ""
        return f"{', '.join(names)}{more} {'hangs' if len(ranks) == 1 else 'hang'}"


class Beats:
    """A thread that writes and reads heartbeats; `fault` is one of the checks of Watch.

    Args:
        store: torch.distributed's.
        world: This rank.
        limit_s: After how long a rank hangs.
        at: Gives the step of the main thread, and whether it waits there for the others.
        again: What is said of going on.
    """

    def __init__(
        self, store: Any, world: World, limit_s: float, at: Callable[[], tuple[int, bool]], again: Callable[[], str]
    ) -> None:
        self.store, self.world, self.limit_s, self.at, self.again = store.clone(), world, limit_s, at, again
        self._interval = min(limit_s / 6, LONGEST_INTERVAL_S)
        self._who = f"process {os.getpid()} on {socket.gethostname()}"
        self._judge = Judge(world.size, limit_s, time.monotonic())
        self._answered = self._looked = time.monotonic()
        self._failed_at: float | None = None
        self._ended = threading.Event()
        self._end: tuple[str, int] | None = None
        threading.Thread(target=self._beat, name="kdcache-beats", daemon=True).start()

    def stop(self) -> None:
        """Before the ranks part, so that nobody is missed."""
        self._ended.set()

    def fault(self) -> tuple[str, int] | None:
        """Why this process is to end, to be said by it unless empty, and its exit status."""
        now = time.monotonic()
        if now - self._looked > GRACE_S:  # this process was stopped itself
            self._answered = now
        self._looked = now
        if self._ended.is_set() or self._end is not None:
            return None if self._ended.is_set() else self._end
        patience = self.limit_s + (0 if self.world.rank == 1 else GRACE_S)
        if not self.world.first and now - self._answered > patience:
            words = f"rank 0 hangs: its store has not answered for {self.limit_s:.0f} s; {self.again()}"
            return (words if self.world.rank == 1 else "", 1)
        return None

    def _beat(self) -> None:
        count, last = 0, time.monotonic()
        while not self._ended.wait(self._interval if count else 0):
            now = time.monotonic()
            if now - last > self._interval + GRACE_S:
                self._judge.forgive(now)
            last, count = now, count + 1
            try:
                self._exchange(count)
                self._answered = time.monotonic()
            except RuntimeError:  # the store is gone, with rank 0
                self._failed(1, now)

    def _exchange(self, count: int) -> None:
        step, waiting = self.at()
        self.store.set(_key(self.world.rank), Beat(count, step, waiting, self._who).to_text())
        now = time.monotonic()
        if self.store.check([STATUS]):
            self._failed(int(self.store.get(STATUS)), now)
        elif self.world.first:
            self._judge.hear([self._read(rank) for rank in range(self.world.size)], now)
            if (found := self._judge.verdict(now)) is not None:
                self.store.set(VERDICT, found)
                time.sleep(self._interval + 1)  # the others read it from this process
                self._end = (f"{found}; all ranks end; {self.again()}", 1)
        elif self.store.check([VERDICT]):
            self._end = ("", 1)

    def _read(self, rank: int) -> Beat | None:
        key = _key(rank)
        return Beat.of_text(self.store.get(key).decode()) if self.store.check([key]) else None

    def _failed(self, status: int, now: float) -> None:
        self._failed_at = self._failed_at or now
        if now - self._failed_at > GRACE_S:
            self._end = ("", status)


def _key(rank: int) -> str:
    return f"kdcache/beat/{rank}"
