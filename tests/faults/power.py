"""A power cut: of what a command wrote, only what it brought to the disk is there afterwards.

A recorder notes after each fsync what a file system must have by then that keeps names only when their folder is
fsynced, and bytes only when their file is: a file that was renamed and not fsynced is empty, as ext4 and XFS leave it.

Files and folders are known by their numbers (inodes), since names change. A file system gives the number of what was
deleted to the next file at once, so the recorder keeps a descriptor of all that it knows: nothing else has its number.
"""

import os
import shutil
import stat
import threading
from collections.abc import Iterator
from contextlib import suppress
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
    _kept: dict[int, int] = field(default_factory=dict)
    """Number -> a descriptor of it."""
    _lock: threading.Lock = field(default_factory=threading.Lock)

    def install(self) -> None:
        """Stand before the system in this process. What is there already is on the disk."""
        real_fsync = os.fsync
        for folder, folders, files in os.walk(self.under):
            self._entries[self._keep(folder)] = {name: self._keep(f"{folder}/{name}") for name in (*folders, *files)}
            self._synced |= {self._keep(f"{folder}/{name}"): Path(folder, name).read_bytes() for name in files}

        def fsync(descriptor: int) -> None:
            with self._lock:
                real_fsync(descriptor)
                if Path(os.readlink(f"/proc/self/fd/{descriptor}")).is_relative_to(self.under):
                    self._follow(f"/proc/self/fd/{descriptor}")

        os.fsync = fsync

    def close(self) -> None:
        """Give back the descriptors."""
        for descriptor in self._kept.values():
            os.close(descriptor)
        self._kept.clear()

    def _keep(self, path: str, follow: int = os.O_NOFOLLOW) -> int:
        """The number of a file or folder, which it has for ever now."""
        descriptor = os.open(path, os.O_PATH | follow)
        number = os.fstat(descriptor).st_ino
        if self._kept.setdefault(number, descriptor) != descriptor:
            os.close(descriptor)
        return number

    def _follow(self, path: str) -> None:
        """Take note of what was fsynced."""
        number = self._keep(path, follow=0)
        if os.path.isdir(path):
            entries = self._entries[number] = {}
            for name in sorted(os.listdir(path)):
                with suppress(FileNotFoundError):  # another thread's, deleted meanwhile
                    entries[name] = self._keep(f"{path}/{name}")
                    if stat.S_ISDIR(os.fstat(self._kept[entries[name]]).st_mode):
                        self._entries.setdefault(entries[name], {})
        else:
            self._synced[number] = Path(path).read_bytes()
        state = dict(self._walk(self.under.stat().st_ino, ""))
        if not self.states or state != self.states[-1]:
            self.states.append(state)

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
