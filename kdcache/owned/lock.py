"""Who writes in an output folder: each writer holds a lease, FOLDER/.kdcache/locks/DOING.IDENTITY.SINCE.NUMBER.

Writers of one identity share a folder, as the ranks of a dump do; any other is refused while one of them lives. A
writer looks at the others and registers while it is in the door (door.py), where nobody else is; so a lease that
names nobody, or was set aside there, is of a process that was killed.
"""

import itertools
import os
import time
import uuid
import weakref
from collections.abc import Callable, Iterator
from contextlib import contextmanager, suppress
from datetime import UTC, datetime
from pathlib import Path
from types import TracebackType
from typing import Any, Self

from kdcache.disk import fault, make_folder
from kdcache.errors import LockedError
from kdcache.owned import lease
from kdcache.owned.door import POLL_S, door
from kdcache.owned.folder import HIDDEN
from kdcache.progress import say

__all__ = ["Hold", "check_free", "hold"]

PATIENCE_S = 5.0
"""How long a writer on this host may take to end before it is spoken of."""
HELD: "weakref.WeakValueDictionary[str, Hold]" = weakref.WeakValueDictionary()
"""The leases of this process, by their files."""
SINCE = "%Y%m%dT%H%M%SZ"


class Hold:
    """A writer's lease on a folder. Leaving the block, `release` and the end of the process give it back.

    with hold(folder, "convert") as held:
        ...
        held.check()        # before something that two writers must not both do
    """

    def __init__(self, folder: Path) -> None:
        self.folder = folder
        self.lost: str | None = None
        self.taken = False
        self._release: Callable[[], object] = lambda: None

    def check(self) -> None:
        """Raises LockedError where another command took the folder over, with --force or after a long pause here."""
        if self.lost is not None:
            raise LockedError(
                f"another command took {self.folder} over while this one wrote there ({self.lost}): stop one of them, "
                "and run the other again"
            )

    @contextmanager
    def alone(self) -> Iterator[None]:
        """For milliseconds: what the other writers of this identity must not do at the same time."""
        if not self.taken:
            yield
            return
        with door(_locks(self.folder), self.folder):
            yield

    def release(self) -> None:
        """Give the lease back; nothing where that was done."""
        self._release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        self.release()


def hold(folder: Path, doing: str, *, identity: str | None = None, force: bool = False) -> Hold:
    """Register as a writer of a folder.

    A writer of another identity that this very process has of the same command gives way: its next `check` raises.

    Args:
        folder: The output; FOLDER/.kdcache/locks is made.
        doing: The command, such as "dump-logits": letters and hyphens.
        identity: A hexadecimal digest of what is written. Writers of the same one share the folder; None shares it
            with nobody.
        force: End the leases of the others, and say whose they were.

    Raises:
        LockedError: Another writer is alive, or nothing can be locked there.
    """
    locks, held = _locks(folder), Hold(folder)
    own = (identity or uuid.uuid4().hex)[:16]
    since = datetime.now(UTC).strftime(SINCE)
    path = locks / f"{doing}.{own}.{since}.{uuid.uuid4().hex[:8]}"
    for attempt in itertools.count():
        try:
            make_folder(locks)
            others, host = _register(held, path, own, force)
            if held.taken:
                return held
            _wait_for(others, folder, host)
        except OSError as error:
            # Whoever had the folder before may take it away, empty as it is, between two lines.
            if attempt < 5 and isinstance(error, FileNotFoundError):
                continue
            raise _cannot_lock(folder, error) from None
    raise AssertionError


def check_free(folder: Path, *, identity: str | None = None) -> None:
    """Raises LockedError where another identity's writer is alive on this host, as `hold` does; nobody is registered.

    A command asks so before it does something slow. What a dead writer left is swept away.
    """
    locks = _locks(folder)
    if not _writers(locks):
        return
    try:
        with door(locks, folder) as host:
            others = _others(locks, identity and identity[:16])
        _wait_for_own(others, folder, host)
    except FileNotFoundError:
        return
    except OSError as error:
        raise _cannot_lock(folder, error) from None


class _Writer:
    """Another writer's lease, by its file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.doing, self.identity, self.since, _ = path.name.split(".")
        self.lease = lease.new(path)

    @property
    def spoken(self) -> str:
        owner = self.lease.owner
        who = f"process {owner.pid} on {owner.hostname}" if owner else "a process that is just beginning"
        with suppress(ValueError):
            since = datetime.strptime(self.since, SINCE).replace(tzinfo=UTC)
            return f"is being written by kdcache {self.doing}, {who}, since {since:%Y-%m-%d %H:%M:%S} UTC"
        return f"is being written by kdcache {self.doing}, {who}"

    def is_alive(self) -> bool:
        return lease.is_alive(self.lease)

    def gives_way(self, doing: str) -> bool:
        """End the lease of an older object of this process that does the same."""
        older = HELD.get(str(self.path))
        if older is None or self.doing != doing or not self.lease.is_lock_held_by_us:
            return False
        older.lost = older.lost or "superseded"
        older.release()
        return True

    def is_on(self, host: str) -> bool:
        owner = self.lease.owner
        return owner is None or owner.hostname == host

    def beats(self) -> bool:
        """Watch it for as long as a lease lives: whether its heartbeat is renewed. A dead one's lease is gone then."""
        last = self._beat()
        end = time.monotonic() + lease.LIFETIME_S * 1.5
        while time.monotonic() < end:
            time.sleep(POLL_S * 25)
            if not self.is_alive():
                return False
            if (beat := self._beat()) != last and beat is not None:
                return True
        return True

    def _beat(self) -> int | None:
        with suppress(OSError):
            return self.path.stat().st_mtime_ns
        return None


def _register(held: Hold, path: Path, identity: str, force: bool) -> tuple[list[_Writer], str]:
    """In the door: take the lease where no other writer may be alive, or with force. The others, and this host."""
    with door(path.parent, held.folder) as host:
        doing = path.name.partition(".")[0]
        others = [writer for writer in _others(path.parent, identity) if not writer.gives_way(doing)]
        if force:
            for writer in others:
                say(f"--force: {held.folder} {writer.spoken}; it is told to stop, and this command goes on")
                writer.lease.force_break()
        if force or not others:
            _take(held, path)
    return others, host


def _others(locks: Path, identity: str | None) -> list[_Writer]:
    """The writers of other identities that may be alive, asked in the door. What killed processes left is deleted."""
    lease.drop_set_aside(locks)
    for writer in _writers(locks):
        lease.drop_nameless(writer.path)
    return [writer for writer in _writers(locks) if writer.identity != identity and writer.is_alive()]


def _wait_for(others: list[_Writer], folder: Path, host: str) -> None:
    """Raises LockedError for a writer that is alive; returns when the others may be looked at again."""
    _wait_for_own(others, folder, host)
    for writer in others:
        if not writer.is_on(host):
            say(f"{folder} {writer.spoken}; waiting up to {lease.LIFETIME_S * 1.5:.0f} s to see whether it is alive")
            if writer.beats():
                raise _refusal(writer, folder, host)


def _wait_for_own(others: list[_Writer], folder: Path, host: str) -> None:
    """A process that was killed just now may need a moment to be gone. Raises LockedError for one on this host."""
    end = time.monotonic() + PATIENCE_S
    for writer in others:
        while writer.is_on(host) and writer.is_alive():
            if time.monotonic() > end:
                raise _refusal(writer, folder, host)
            time.sleep(POLL_S * 5)


def _refusal(writer: _Writer, folder: Path, host: str) -> LockedError:
    owner = writer.lease.owner
    kill = f" (kill {owner.pid})" if owner is not None and writer.is_on(host) else ""
    return LockedError(
        f"{folder} {writer.spoken}; expected nobody else to write there: wait until it ends, stop it{kill}, use "
        "another output, or give --force to take the folder over"
    )


def _take(held: Hold, path: Path) -> None:
    place = weakref.ref(held)

    def lose(compromise: Any) -> None:
        if (hold := place()) is not None and hold.lost is None:
            hold.lost = compromise.reason

    own = lease.new(path, lose)
    lease.acquire(own, path)
    held.taken = True
    HELD[str(path)] = held
    held._release = weakref.finalize(held, _give_back, own)


def _give_back(own: Any) -> None:
    with suppress(OSError):
        own.release()


def _writers(locks: Path) -> list[_Writer]:
    try:
        names = sorted(os.listdir(locks))
    except FileNotFoundError:
        return []
    return [_Writer(locks / name) for name in names if name.count(".") == 3 and not lease.is_set_aside(name)]


def _locks(folder: Path) -> Path:
    return folder / HIDDEN / "locks"


def _cannot_lock(folder: Path, error: OSError) -> LockedError:
    return LockedError(
        f"cannot lock {folder}: {fault(error)}; expected a folder in which files can be made: use another output, or "
        "mend its permissions"
    )
