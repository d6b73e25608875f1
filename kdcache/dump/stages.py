"""The stages of a dump, and the time that each of them takes.

    tokenise   rows of the corpus are read and become examples        a thread, one unit ahead
    forward    the teacher gives logits, block by block               the main thread
    compress   a block of logits becomes records                      the main thread on a CPU, two threads on a GPU
    write      a unit's arrays become a shard that is committed       a thread, at most two units behind

A CPU teacher computes with every core, so nothing is won where its records are made beside it. A GPU teacher's forward
is timed from its launch until the GPU has made the block, which a compressing thread waits for; times when both
threads compress count once.

Two clock readings per block are the price. The profile is Chrome's trace format (chrome://tracing, ui.perfetto.dev):
one process for each rank, one row for each stage.
"""

import json
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path
from threading import Lock
from types import TracebackType
from typing import Any, Self

from kdcache.errors import ConfigError

__all__ = ["STAGES", "Stages"]

STAGES = ("tokenise", "forward", "compress", "write")


class Stages:
    """Sums the stages' seconds, and keeps their spans where they are to be written.

    Args:
        profile: The file for the spans, written at the end, whatever the end is.
        rank: Of this process.

    Raises:
        ConfigError: The file cannot be there.
    """

    def __init__(self, profile: str | None = None, rank: int = 0) -> None:
        self.seconds = dict.fromkeys(STAGES, 0.0)
        self._rank, self._lock, self._start = rank, Lock(), time.perf_counter()
        self._file = None if profile is None else Path(profile)
        self._spans: list[tuple[str, int, float, float]] = []
        self._until: dict[str, float] = {}
        if self._file is not None and (self._file.is_dir() or not self._file.parent.is_dir()):
            raise ConfigError(f"got --profile {profile}, expected a file in a folder that is there")

    @contextmanager
    def span(self, stage: str, unit: int) -> Iterator[None]:
        """What happens inside belongs to a stage."""
        begin = time.perf_counter()
        try:
            yield
        finally:
            self.add(stage, unit, begin)

    def add(self, stage: str, unit: int, begin: float) -> None:
        """A span from `begin`, or from the end of the stage's last one if that is later, until now.

        begin: of time.perf_counter().
        """
        end = time.perf_counter()
        with self._lock:
            begin = max(begin, self._until.get(stage, begin))
            self._until[stage] = end
            self.seconds[stage] += end - begin
            if self._file is not None:
                self._spans.append((stage, unit, begin, end))

    def shares(self, elapsed: float) -> str:
        """Of so many seconds, what each stage took: "tokenise 2%, forward 91%, compress 4%, write 3%"."""
        return ", ".join(f"{name} {took / elapsed:.0%}" for name, took in self.seconds.items() if took)

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        if self._file is not None:
            self._file.write_text(json.dumps({"traceEvents": [*self._events()]}))

    def _events(self) -> Iterator[dict[str, Any]]:
        """ts and dur in microseconds since the start."""
        yield {"name": "process_name", "ph": "M", "pid": self._rank, "args": {"name": f"rank {self._rank}"}}
        for row, stage in enumerate(STAGES):
            yield {"name": "thread_name", "ph": "M", "pid": self._rank, "tid": row, "args": {"name": stage}}
        for stage, unit, begin, end in self._spans:
            yield {
                **{"name": f"unit {unit}", "cat": stage, "ph": "X", "pid": self._rank, "tid": STAGES.index(stage)},
                **{"ts": round((begin - self._start) * 1e6, 1), "dur": round((end - begin) * 1e6, 1)},
            }
