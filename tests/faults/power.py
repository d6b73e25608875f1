"""A power cut: of what a command wrote, only what it brought to the disk is there afterwards.

A recorder notes after each fsync what a file system must have by then that keeps names only when their folder is
fsynced, and bytes only when their file is: a file that was renamed and not fsynced is empty, as ext4 and XFS leave it.
"""

import os
import shutil
from collections.abc import Iterator
from dataclasses import dataclass, field
from pathlib import Path

__all__ = ["Recorder"]


@dataclass
class Recorder:
    """states: name -> bytes of what is sure to be on the disk, after each operation that changed it."""

    under: Path
    states: list[dict[str, bytes]] = field(default_factory=list)
    _synced: dict[int, bytes] = field(default_factory=dict)
    _entries: dict[int, dict[str, int]] = field(default_factory=dict)
    """Of each folder as of its last fsync: a folder that is renamed takes its entries with it."""

    def install(self) -> None:
        """Stand before the system in this process. What is there already is on the disk."""
        real_fsync = os.fsync
        for folder, _, files in os.walk(self.under):
            found = [*os.scandir(folder)]
            self._entries[os.stat(folder).st_ino] = {entry.name: entry.inode() for entry in found}
            self._synced |= {entry.inode(): Path(entry).read_bytes() for entry in found if entry.name in files}

        def fsync(descriptor: int) -> None:
            real_fsync(descriptor)
            path = Path(os.readlink(f"/proc/self/fd/{descriptor}"))
            if not path.is_relative_to(self.under):
                return
            number = path.stat().st_ino
            if path.is_dir():
                found = [*os.scandir(path)]
                self._entries[number] = {entry.name: entry.inode() for entry in found}
                for entry in found:
                    if entry.is_dir():
                        self._entries.setdefault(entry.inode(), {})
            else:
                self._synced[number] = path.read_bytes()
            state = dict(self._walk(self.under.stat().st_ino, ""))
            if not self.states or state != self.states[-1]:
                self.states.append(state)

        os.fsync = fsync

    def _walk(self, folder: int, prefix: str) -> Iterator[tuple[str, bytes]]:
        for name, number in self._entries.get(folder, {}).items():
            if number in self._entries:
                yield from self._walk(number, f"{prefix}{name}/")
            else:
                yield f"{prefix}{name}", self._synced.get(number, b"")

    @staticmethod
    def restore(state: dict[str, bytes], folder: Path) -> None:
        """Make the folder what it is after the power came back."""
        shutil.rmtree(folder, ignore_errors=True)
        folder.mkdir(parents=True)
        for name, data in state.items():
            if not (folder / name).is_dir():
                (folder / name).parent.mkdir(parents=True, exist_ok=True)
                (folder / name).write_bytes(data)
