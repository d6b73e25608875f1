"""The folder of a run's checkpoints, as one process sees it: which there are, which is the newest, which go.

    OUTPUT/checkpoints/step-00000500/      a sealed folder (sealed.py)
    OUTPUT/checkpoints/latest              the name of the one to go on from, replaced last
    OUTPUT/checkpoints/.kdcache/saving/    the one that is being written
    OUTPUT/checkpoints/.kdcache/replaced/  one of the same step that gives way to a new one

A kill at any moment leaves the previous one. A checkpoint is a folder whose name is step- and eight digits and that
holds kdcache.json; nothing else is ever read, moved for good or deleted, such as a user's step-00000500-best.
"""

import itertools
import os
import re
import shutil
from collections.abc import Collection, Iterator
from pathlib import Path

from kdcache.disk import Disk, sync_folder
from kdcache.owned.folder import scratch
from kdcache.train.sealed import STATE

__all__ = ["CheckpointFolder", "name_of", "step_of", "to_drop"]

NAME = re.compile(r"step-(\d{8})", re.ASCII)
LATEST = "latest"


def name_of(step: int) -> str:
    return f"step-{step:08d}"


def step_of(name: str) -> int | None:
    """The step of a checkpoint's name; None for any other name."""
    found = NAME.fullmatch(name)
    return int(found.group(1)) if found else None


def to_drop(steps: Collection[int], now: int, keep: int, damaged: Collection[int]) -> list[int]:
    """Which checkpoints go when that of step `now` stands: all but the newest `keep` up to it, and damaged ones.

    By step, never by clock. Those of later steps stay: the run was set back by hand, and will come to them.
    """
    sound = sorted(step for step in steps if step <= now and step not in damaged)
    return sorted({*sound[:-keep], *(step for step in steps if step < now and step in damaged)})


class CheckpointFolder:
    """Raises OSError as the system does."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.saving, self.replaced = scratch(path, "saving"), scratch(path, "replaced")

    def steps(self) -> list[int]:
        """The steps of the checkpoints that there are, sound or not, in order."""
        if not self.path.is_dir():
            return []
        found = [step_of(path.name) for path in self.path.iterdir() if (path / STATE).exists()]
        return sorted(step for step in found if step is not None)

    def latest(self) -> str | None:
        """What the file latest says, whether there is such a checkpoint or not; None where there is no such file."""
        path = self.path / LATEST
        return path.read_bytes()[:200].decode(errors="replace").strip() if path.is_file() else None

    def candidates(self) -> list[int]:
        """The steps to go on from, the best first: that of the file latest, then those before it, then later ones.

        Where that file is lost, or names none that there is: from the newest on.
        """
        steps = self.steps()
        told = step_of(self.latest() or "")
        if told is None or told not in steps:
            return steps[::-1]
        before = [step for step in reversed(steps) if step <= told]
        return before + [step for step in reversed(steps) if step > told]

    def sweep(self) -> None:
        """Delete half a checkpoint, and put back one that was to give way to it; no other process may be saving."""
        if self.replaced.is_dir():
            for old in [*self.replaced.iterdir()]:
                if step_of(old.name) is not None and not (self.path / old.name).exists():
                    old.rename(self.path / old.name)
            sync_folder(self.path)
        self._clear()

    def _clear(self) -> None:
        for left in (self.saving, self.replaced):
            if left.exists():
                shutil.rmtree(left)

    def begin(self) -> None:
        """Make the place to save in, empty."""
        self.sweep()
        new = [path for path in (self.path, *self.path.parents) if not path.exists()]
        self.saving.mkdir(parents=True, exist_ok=True)
        for path in new:
            sync_folder(path.parent)

    def put_in_place(self, step: int) -> Path | None:
        """The checkpoint in `saving`, which is sealed, takes its place. Returns where it moved what was there.

        Something without kdcache.json is not ours to delete, and stays under another name.
        """
        target = self.path / name_of(step)
        moved, ours = None, (target / STATE).exists()
        if ours:
            self.replaced.mkdir(exist_ok=True)
            moved = self.replaced / target.name
        elif os.path.lexists(target):
            moved = next(path for path in _asides(target) if not os.path.lexists(path))
        if moved is not None:
            target.rename(moved)
        try:
            (self.saving / target.name).rename(target)
        except OSError:
            if moved is not None:
                moved.rename(target)
            raise
        sync_folder(self.path)
        Disk(self.path).write(LATEST, f"{target.name}\n".encode())
        return None if ours else moved

    def drop(self, steps: Collection[int]) -> None:
        """Delete these, each so that a kill leaves no half of it under its name."""
        for step in steps:
            (self.path / name_of(step)).rename(self.saving / name_of(step))
        sync_folder(self.path)
        self._clear()


def _asides(target: Path) -> Iterator[Path]:
    return (target.with_name(f"{target.name}.aside-{number}") for number in itertools.count(1))
