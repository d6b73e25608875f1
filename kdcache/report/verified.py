"""Verified: which shards a verify has found sound, so that one that was stopped goes on and reads no byte twice.

A file in the user's folder of states, since a verify writes nothing into a cache: ~/.local/state/kdcache/verified, or
under XDG_STATE_HOME. It is named by the cache's place and digest, has a line for each shard, and is deleted by the
verify that comes to the end. A line counts while the shard's file and its record are as they were (size, time and
inode; of a remote store what its listing says), and for a day, because disks forget. A folder that cannot be written
costs nothing but that.
"""

import contextlib
import hashlib
import json
import os
import time
from io import TextIOWrapper
from pathlib import Path

from kdcache.store.files import Root
from kdcache.store.manifest import Manifest
from kdcache.store.places import record_name

__all__ = ["Verified"]

DAY_S = 86_400
FLUSH_S = 1.0


class Verified:
    """What is known of a cache's shards; used as a context manager, which keeps what was added.

    Args:
        root: The cache's folder.
        manifest: What its cache.json says.
        anew: Forget what an earlier verify found.
    """

    def __init__(self, root: Root, manifest: Manifest, *, anew: bool = False) -> None:
        self._root, self._shards = root, manifest.shards
        place = root.url if root.local is None else root.local.resolve()
        name = hashlib.sha256(f"{place} {manifest.digest()}".encode()).hexdigest()[:32]
        self._path = _folder() / name
        self._states: dict[str, dict[str, str]] = {}
        self._known = {} if anew else self._read()
        self._file: TextIOWrapper | None = None
        self._flushed = time.monotonic()

    def __len__(self) -> int:
        return len(self._known)

    def __contains__(self, unit: int) -> bool:
        """Whether a shard was found sound, and is as it was; asked before it is read."""
        return self._state(unit) == self._known.get(unit)

    def add(self, unit: int) -> None:
        """A shard is sound. It was asked for by `in` before it was read."""
        if self._file is None or unit in self._known:
            return
        with contextlib.suppress(OSError):
            self._file.write(_line(unit, self._state(unit)))
            if time.monotonic() - self._flushed > FLUSH_S:
                self._file.flush()
                self._flushed = time.monotonic()

    def done(self) -> None:
        """Every shard was looked at: nothing is left to go on with."""
        self.__exit__()
        with contextlib.suppress(OSError):
            self._path.unlink(missing_ok=True)

    def __enter__(self) -> "Verified":
        with contextlib.suppress(OSError):
            self._path.parent.mkdir(parents=True, exist_ok=True)
            self._file = self._path.open("w", encoding="utf-8")
            self._file.writelines(_line(unit, state) for unit, state in self._known.items())
            self._file.flush()
        return self

    def __exit__(self, *exception: object) -> None:
        if self._file is not None:
            with contextlib.suppress(OSError):
                self._file.close()
            self._file = None

    def _read(self) -> dict[int, str]:
        known = {}
        with contextlib.suppress(OSError, ValueError, TypeError):
            if time.time() - self._path.stat().st_mtime < DAY_S:
                for line in self._path.read_text("utf-8").splitlines():
                    unit, state = json.loads(line)
                    known[int(unit)] = str(state)
        return known

    def _state(self, unit: int) -> str:
        shard, record = self._shards.file(unit), record_name(unit)
        folder = shard.rpartition("/")[0]
        if folder not in self._states:
            found = self._root.stamps(folder)
            self._states = {folder: {f"{folder}/{name}": f"{s.bytes} {s.state}" for name, s in found.items()}}
        states = self._states[folder]
        return f"{states.get(shard)}, {states.get(record)}"


def _folder() -> Path:
    try:
        return Path(os.environ.get("XDG_STATE_HOME") or Path.home() / ".local" / "state", "kdcache", "verified")
    except RuntimeError:  # this user has no home, and nothing is kept
        return Path(os.devnull)


def _line(unit: int, state: str) -> str:
    return json.dumps([unit, state]) + "\n"
