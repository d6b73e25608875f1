"""Progress and words: a rich bar on a terminal, plain lines every few seconds anywhere else.

Both say the same: how far, the rates that were set, the time that is left. Everything goes to standard error, so
that standard output stays a command's result.
"""

import os
import sys
import time
from collections.abc import Callable
from types import TracebackType
from typing import Self

from rich.console import Console
from rich.progress import BarColumn, MofNCompleteColumn, TextColumn, TimeRemainingColumn
from rich.progress import Progress as Bar

from kdcache.errors import printable

__all__ = ["Listener", "Progress", "counted", "listen", "say", "show", "spoken_duration"]

PLAIN_INTERVAL_S = 10.0
Listener = Callable[[str, bool], None]
"""Hears a line, and whether it belongs to a command's result."""
_LISTENERS: list[Listener] = []


def listen(listener: Listener) -> None:
    """From now on hand the lines of this process to a listener: nobody sees its standard output and error."""
    _LISTENERS[:] = [listener]


def say(text: str) -> None:
    """One line to standard error, by the first rank only."""
    if int(os.environ.get("RANK", "0")) == 0:
        _print(text)


def show(text: str) -> None:
    """Lines of a command's result, to standard output."""
    if _LISTENERS:
        _LISTENERS[0](text, True)
    else:
        print(printable(text, lines=True), flush=True)


def counted(count: int, noun: str) -> str:
    """1, "shard" -> "1 shard", 2000 -> "2,000 shards"."""
    return f"{count:,} {noun}" + ("" if count == 1 else "s")


def spoken_duration(seconds: float) -> str:
    """75 -> "1:15", 3700 -> "1:01:40"."""
    minutes, rest = divmod(round(seconds), 60)
    hours, minutes = divmod(minutes, 60)
    return f"{hours}:{minutes:02d}:{rest:02d}" if hours else f"{minutes}:{rest:02d}"


class Progress:
    """Counts `total` things called `unit`. `done`: how many a resumed run starts with. `quiet`: says nothing.

    with Progress(100, "shards", "dump") as progress:
        progress.set(**{"tok/s": "740"})
        progress.advance(1)
    """

    def __init__(self, total: int, unit: str, title: str, *, done: int = 0, quiet: bool = False) -> None:
        self.total, self.unit, self.title, self.quiet = total, unit, title, quiet
        self.count = self._first = done
        self._fields: dict[str, object] = {}
        self._start = self._last_line = time.monotonic()
        self._bar: Bar | None = None
        if not quiet and sys.stderr.isatty():
            columns = ("{task.description}", BarColumn(), MofNCompleteColumn(), unit, "{task.fields[notes]}", "ETA")
            self._bar = Bar(
                *(TextColumn(c, markup=False) if isinstance(c, str) else c for c in columns),
                TimeRemainingColumn(),
                console=Console(stderr=True),
            )
            self._task = self._bar.add_task(title, total=total, completed=done, notes="")

    def __enter__(self) -> Self:
        if self._bar is not None:
            self._bar.start()
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._bar is not None:
            self._bar.stop()
        elif kind is None and self.count > self._first:
            self._line()

    def set(self, **fields: object) -> None:
        """What else to show, e.g. loss, tokens/s."""
        self._fields.update(fields)
        self.advance(0)

    def advance(self, count: int = 1) -> None:
        self.count += count
        if self._bar is not None:
            self._bar.update(self._task, completed=self.count, notes=self._notes())
        elif time.monotonic() - self._last_line >= PLAIN_INTERVAL_S:
            self._line()

    def say(self, text: str) -> None:
        """A line that stays, above the bar."""
        if self.quiet:
            return
        if self._bar is not None:
            self._bar.console.print(printable(text), highlight=False, markup=False)
        else:
            _print(text)

    def _notes(self) -> str:
        return printable("  ".join(f"{name} {value}" for name, value in self._fields.items()))

    def _line(self) -> None:
        self._last_line = time.monotonic()
        if self.quiet:
            return
        elapsed, gained = self._last_line - self._start, self.count - self._first
        left = f"  ETA {spoken_duration(elapsed / gained * (self.total - self.count))}" if gained else ""
        self.say(f"{self.title}: {self.count}/{self.total} {self.unit}  {self._notes()}{left}")


def _print(text: str) -> None:
    if _LISTENERS:
        _LISTENERS[0](text, False)
    else:
        print(printable(text), file=sys.stderr, flush=True)
