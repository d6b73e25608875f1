"""OUTPUT/log.jsonl and the monitors, which say the same: one line, and one event per number, for each record.

A line has step, group (cache, train, eval, change), time (UTC), epoch (passes over the cache so far) and the values.
The first, of step 0, has the cache's digest. When a run goes on from step s, what it will do again goes: lines of
later steps, one that a kill cut off, and the final evaluation where it is taken again. TensorBoard is told that events
from s on are void (as SummaryWriter's purge_step does) and gets those of s itself again, from the log. Lines of others
stay. Other monitors than TensorBoard know no such thing and keep what they were sent.
"""

import json
import os
from collections.abc import Collection
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

from kdcache.disk import whole_file
from kdcache.launcher import World

__all__ = ["Log"]

OURS = {"step", "group", "time", "epoch"}
TORN = b'{"step": '


class Log:
    """Written by rank 0.

    Args:
        output: The folder of the run.
        monitor: DeepSpeed's, apart from its engine.
        world: This rank.
        step: The step that the run goes on from.
        steps_per_epoch: Of the cache.
        again: Groups of which the line of this very step will be written again.
    """

    def __init__(
        self,
        output: Path,
        monitor: Any,
        world: World,
        step: int,
        *,
        steps_per_epoch: int = 1,
        again: Collection[str] = (),
    ) -> None:
        self.path, self.monitor, self.world = output / "log.jsonl", monitor, world
        self.steps_per_epoch = steps_per_epoch
        if world.first:
            output.mkdir(parents=True, exist_ok=True)
            self._go_back_to(step, {*again, "cache", "change"})

    def _go_back_to(self, step: int, again: Collection[str]) -> None:
        text = self.path.read_bytes() if self.path.exists() else b""
        lines = text.splitlines()
        whole = not text or text.endswith(b"\n")
        kept = [
            line
            for number, line in enumerate(lines, 1)
            if _stays(line, step, again, torn=number == len(lines) and not whole)
        ]
        if kept != lines or not whole:
            with whole_file(self.path) as file:
                file.write(b"".join(line + b"\n" for line in kept))
        self._purge_tensorboard(step)
        for line in kept:
            if (record := _ours(line)) is not None and record["step"] == step:
                self._send(step, record["group"], {k: v for k, v in record.items() if k not in OURS})

    def _purge_tensorboard(self, step: int) -> None:
        """What SummaryWriter does for purge_step, which DeepSpeed has no setting for."""
        writer = getattr(getattr(self.monitor, "tb_monitor", None), "summary_writer", None)
        if writer is None:
            return
        from tensorboard.compat.proto.event_pb2 import Event, SessionLog

        for event in (
            Event(step=step, file_version="brain.Event:2"),
            Event(step=step, session_log=SessionLog(status=SessionLog.START)),
        ):
            writer.file_writer.add_event(event)

    def write(self, step: int, group: str, values: dict[str, Any]) -> None:
        """A line, and an event for each value that is a number."""
        if not self.world.first:
            return
        epoch = round(step / self.steps_per_epoch, 4)
        head = {"step": step, "group": group, "time": f"{datetime.now(UTC):%Y-%m-%dT%H:%M:%SZ}", "epoch": epoch}
        with self.path.open("a", encoding="utf-8") as file:
            file.write(json.dumps(head | values) + "\n")
        self._send(step, group, values)

    def _send(self, step: int, group: str, values: dict[str, Any]) -> None:
        if self.monitor is not None and group != "change":
            numbers = {name: value for name, value in values.items() if isinstance(value, float | int)}
            self.monitor.write_events([(f"{group}/{name}", value, step) for name, value in numbers.items()])

    def sync(self) -> None:
        """Bring what was written to the disk, before a checkpoint says that these steps are done."""
        if self.world.first and self.path.exists():
            with self.path.open("rb") as file:
                os.fsync(file.fileno())


def _ours(line: bytes) -> dict[str, Any] | None:
    try:
        record = json.loads(line)
    except ValueError:
        return None
    ours = isinstance(record, dict) and record.keys() >= OURS and isinstance(record["step"], int)
    return record if ours else None


def _stays(line: bytes, step: int, again: Collection[str], *, torn: bool) -> bool:
    if (record := _ours(line)) is None:
        return not (torn and (line.startswith(TORN) or TORN.startswith(line)))
    return bool(record["step"] < step or (record["step"] == step and record["group"] not in again))
