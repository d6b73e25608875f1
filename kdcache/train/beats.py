"""Heartbeats of the ranks, so that one that hangs is named instead of waited for, in whatever phase of the run.

Each rank's thread writes a line into the common store (a connection of its own to torch.distributed's TCPStore on
rank 0) six times per limit, at most each 5 s: a count, what the main thread is doing (phases.py), whether it gets on,
and whether it waits for the others. Rank 0 reads all lines. A rank hangs

    whose count stands still for the limit: its process is stopped, or its host is gone
    that does not get on for the limit, while another has waited for it as long
    that does not get on for the limit, nor does any other: the one that is furthest behind

So a phase may take as long as it takes, as long as it gets on. Rank 0 says which rank hangs, and all end; when rank 0
itself does not answer, rank 1 says so. A rank that fails says so in the store too (distributed.py). The others may be
waiting for it inside NCCL, which does not notice, so they end after GRACE_S. Cost: a few hundred bytes per rank and
beat, nothing per step. Not for a run of one rank, nor for a rank that computes for ever while it starts or exports.
"""

import json
import os
import socket
import threading
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from typing import Any

from kdcache.launcher import World
from kdcache.progress import counted
from kdcache.train.distributed import STATUS
from kdcache.train.phases import Phases

__all__ = ["Beat", "Beats", "Judge"]

VERDICT = "kdcache/hangs"
GRACE_S = 10.0
LONGEST_INTERVAL_S = 5.0
HEARD_S = 1.0
SHOWN = 4
ORDER = ("start", "load", "step", "evaluation", "save", "export")


@dataclass(frozen=True)
class Beat:
    """What a rank says of itself.

    count: of its beats. phase, step: what it does, after how many steps. marks, signs: of getting on, two numbers that
    change. waits: for the others. place: in the code. who: "process 12 on host".
    """

    count: int
    phase: str
    step: int
    marks: int
    signs: int
    waits: bool
    place: str
    who: str

    def to_text(self) -> str:
        return json.dumps(asdict(self))

    @classmethod
    def of_text(cls, text: str) -> "Beat":
        return cls(**json.loads(text))

    @property
    def spoken(self) -> str:
        if self.phase == "step":
            return f"'step {self.step + 1}'"
        return f"'{self.phase}'" + (f" after step {self.step}" if self.step else "")

    @property
    def reached(self) -> tuple[int, int]:
        """How far it is in the run."""
        return self.step, ORDER.index(self.phase)

    def same_work(self, other: "Beat") -> bool:
        return (self.phase, self.step, self.marks) == (other.phase, other.step, other.marks)


class Judge:
    """Finds the ranks that hang, from what each of them said last. Knows no store; times are in seconds."""

    def __init__(self, size: int, limit_s: float, now: float) -> None:
        self.limit_s = limit_s
        self._last: list[Beat | None] = [None] * size
        self._heard, self._got_on, self._waits = [now] * size, [now] * size, [now] * size

    def hear(self, beats: Sequence[Beat | None], now: float) -> None:
        for rank, beat in enumerate(beats):
            last = self._last[rank]
            if beat is None or beat == last:
                continue
            self._heard[rank] = now
            same = last is not None and beat.same_work(last)
            if not same or last is None or beat.signs != last.signs:
                self._got_on[rank] = now
            if not (same and beat.waits and last is not None and last.waits):
                self._waits[rank] = now
            self._last[rank] = beat

    def forgive(self, now: float) -> None:
        """Begin anew: the judge itself was stopped for a while."""
        for times in (self._heard, self._got_on, self._waits):
            times[:] = [now] * len(times)

    def verdict(self, now: float) -> str | None:
        """Which ranks hang, and how that is known."""
        silent = [rank for rank, heard in enumerate(self._heard) if now - heard > self.limit_s]
        if silent:
            return self._words(silent, f"{{}} has not been heard of for {self.limit_s:.0f} s", "")
        beats = {rank: beat for rank, beat in enumerate(self._last) if beat is not None}
        waiting = [r for r, beat in beats.items() if beat.waits and now - self._waits[r] > self.limit_s]
        still = [r for r, beat in beats.items() if not beat.waits and now - self._got_on[r] > self.limit_s]
        why = "and no other rank gets on"
        if waiting and still:
            why = f"and rank {waiting[0]} waits for {'it' if len(still) == 1 else 'them'}"
        elif len(waiting) + len(still) == len(self._last) and any(beat.phase != "start" for beat in beats.values()):
            furthest_behind = min(beat.reached for beat in beats.values())
            still = [rank for rank in waiting or still if beats[rank].reached == furthest_behind]
        else:
            return None
        seconds = now - max(self._got_on[rank] for rank in still)
        return self._words(still, f"{{}} has not got on for {seconds:.0f} s", f", {why}")

    def _words(self, ranks: Sequence[int], how: str, why: str) -> str:
        named = []
        for rank in ranks[:SHOWN]:
            beat = self._last[rank]
            at = "" if beat is None else f" in {beat.spoken}, at {beat.place} ({beat.who})"
            named.append(how.format(f"rank {rank} of {len(self._last)}") + at)
        more = f", and so {counted(len(ranks) - SHOWN, 'more rank')}" if len(ranks) > SHOWN else ""
        return f"{', '.join(named)}{more}{why}"


class Beats:
    """A thread that writes and reads heartbeats; `fault` is one of the checks of Watch.

    Args:
        store: torch.distributed's.
        world: This rank.
        limit_s: After how long a rank hangs.
        phases: What the main thread is doing.
        again: What is said of going on.
    """

    def __init__(self, store: Any, world: World, limit_s: float, phases: Phases, again: Callable[[], str]) -> None:
        self.store, self.world, self.limit_s, self.phases, self.again = store.clone(), world, limit_s, phases, again
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
            words = (
                f"rank 0 of {self.world.size} has not been heard of for {self.limit_s:.0f} s: its store does not answer"
            )
            return (f"{words}; {self._advice()}" if self.world.rank == 1 else "", 1)
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
        here = self.phases
        done = (here.phase, here.step, here.marks)
        beat = Beat(count, *done, here.signs(), here.waits(), here.place(), self._who)
        self.store.set(_key(self.world.rank), beat.to_text())
        now = time.monotonic()
        if self.store.check([STATUS]):
            self._failed(int(self.store.get(STATUS)), now)
        elif self.world.first:
            self._judge.hear([self._read(rank) for rank in range(self.world.size)], now)
            if (found := self._judge.verdict(now)) is not None:
                self.store.set(VERDICT, found)
                time.sleep(self._interval + HEARD_S)  # the others read it from this process
                self._end = (f"{found}; {self._advice()}", 1)
        elif self.store.check([VERDICT]):
            time.sleep(self._interval + 3 * HEARD_S)  # rank 0 speaks first: who leaves before it ends its collective
            self._end = ("", 1)

    def _advice(self) -> str:
        return (
            f"all ranks end; {self.again()}; where a part of the work takes longer than that, raise hang_minutes "
            f"({self.limit_s / 60:g})"
        )

    def _read(self, rank: int) -> Beat | None:
        key = _key(rank)
        return Beat.of_text(self.store.get(key).decode()) if self.store.check([key]) else None

    def _failed(self, status: int, now: float) -> None:
        self._failed_at = self._failed_at or now
        if now - self._failed_at > GRACE_S:
            self._end = ("", status)


def _key(rank: int) -> str:
    return f"kdcache/beat/{rank}"
