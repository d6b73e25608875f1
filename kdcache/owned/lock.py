"""Who writes in an output folder: each writer holds a lease, FOLDER/.kdcache/locks/DOING.IDENTITY.SINCE.NUMBER.

The leases are filelock's SoftFileLease: a file made with O_EXCL that names host, process and the process' start, and
whose time is renewed by a thread (a heartbeat each LIFETIME_S / 4). A lease counts as dead where its process is gone on
this host (at once, also where its number is another process' now), and elsewhere after LIFETIME_S without a heartbeat,
on the clock of who looks: clocks of hosts need not agree. Writers of one identity share a folder, as the ranks of a
dump do; any other is refused while one of them lives. `door` is held for the milliseconds in which a writer looks at
the others and registers. It costs about 2 ms.
"""

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
from kdcache.owned.folder import HIDDEN
from kdcache.progress import say

__all__ = ["Hold", "check_free", "hold"]

LIFETIME_S = 60.0
PATIENCE_S = 5.0
"""How long a writer on this host may take to end before it is spoken of."""
POLL_S = 0.05
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
        self._lease: Any = None
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
        if self._lease is None:
            yield
            return
        with _door(_locks(self.folder), self.folder):
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
    try:
        make_folder(locks)
        while True:
            with _door(locks, folder) as host:
                others = [writer for writer in _others(locks, own, host) if not writer.gives_way(doing)]
                if force:
                    for writer in others:
                        say(f"--force: {folder} {writer.spoken}; it is told to stop, and this command goes on")
                        writer.lease.force_break()
                if force or not others:
                    _take(held, path)
                    return held
            _wait_for(others, folder, host)
    except OSError as error:
        _drop_empty(path)
        raise _cannot_lock(folder, error) from None


def check_free(folder: Path, *, identity: str | None = None) -> None:
    """Raises LockedError where another identity's writer is alive on this host, as `hold` does; nobody is registered.

    A command asks so before it does something slow. What a dead writer left is swept away.
    """
    locks = _locks(folder)
    if _writers(locks):
        with _door(locks, folder) as host:
            others = _others(locks, identity and identity[:16], host)
        _wait_for_own(others, folder, host)


class _Writer:
    """Another writer's lease, by its file."""

    def __init__(self, path: Path) -> None:
        self.path = path
        self.doing, self.identity, self.since, _ = path.name.split(".")
        self.lease = _lease(path)

    @property
    def spoken(self) -> str:
        owner = self.lease.owner
        who = f"process {owner.pid} on {owner.hostname}" if owner else "a process that is just beginning"
        with suppress(ValueError):
            since = datetime.strptime(self.since, SINCE).replace(tzinfo=UTC)
            return f"is being written by kdcache {self.doing}, {who}, since {since:%Y-%m-%d %H:%M:%S} UTC"
        return f"is being written by kdcache {self.doing}, {who}"

    def is_alive(self, host: str) -> bool:
        """Whether it may be, asked on this host; the lease of a dead one is taken and given back, which deletes it."""
        from filelock import LeaseSettingsMismatch, Timeout

        if (owner := self.lease.owner) is not None and self.is_on(host) and _is_zombie(owner.pid):
            self.lease.force_break()
            return False
        try:
            self.lease.acquire(timeout=0)
        except (Timeout, LeaseSettingsMismatch):
            return True
        self.lease.release()
        return False

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

    def beats(self, host: str) -> bool:
        """Watch it for as long as a lease lives: whether its heartbeat is renewed. A dead one's lease is gone then."""
        last = self._beat()
        end = time.monotonic() + LIFETIME_S * 1.5
        while time.monotonic() < end:
            time.sleep(POLL_S * 10)
            if not self.is_alive(host):
                return False
            if (beat := self._beat()) != last and beat is not None:
                return True
        return True

    def _beat(self) -> int | None:
        with suppress(OSError):
            return self.path.stat().st_mtime_ns
        return None


def _others(locks: Path, identity: str | None, host: str) -> list[_Writer]:
    """The writers of other identities that may be alive. The door is to be held.

    Leases are made under it too, so an empty one is of a process that was killed before it wrote its name.
    """
    for writer in _writers(locks):
        _drop_empty(writer.path)
    return [writer for writer in _writers(locks) if writer.identity != identity and writer.is_alive(host)]


def _wait_for(others: list[_Writer], folder: Path, host: str) -> None:
    """Raises LockedError for a writer that is alive; returns when the others may be looked at again."""
    _wait_for_own(others, folder, host)
    for writer in others:
        if not writer.is_on(host):
            say(f"{folder} {writer.spoken}; waiting up to {LIFETIME_S * 1.5:.0f} s to see whether it is alive")
            if writer.beats(host):
                raise _refusal(writer, folder, host)


def _wait_for_own(others: list[_Writer], folder: Path, host: str) -> None:
    """A process that was killed just now may need a moment to be gone. Raises LockedError for one on this host."""
    end = time.monotonic() + PATIENCE_S
    for writer in others:
        while writer.is_on(host) and writer.is_alive(host):
            if time.monotonic() > end:
                raise _refusal(writer, folder, host)
            time.sleep(POLL_S * 4)


def _refusal(writer: _Writer, folder: Path, host: str) -> LockedError:
    owner = writer.lease.owner
    kill = f" (kill {owner.pid})" if owner is not None and writer.is_on(host) else ""
    return LockedError(
        f"{folder} {writer.spoken}; expected nobody else to write there: wait until it ends, stop it{kill}, use "
        "another output, or give --force to take the folder over"
    )


def _is_zombie(pid: int) -> bool:
    """Whether a process of this host has ended and its parent does not know yet, as in a container without an init."""
    with suppress(OSError, IndexError):
        return Path(f"/proc/{pid}/stat").read_text().rpartition(")")[2].split()[0] in "ZX"
    return False


def _take(held: Hold, path: Path) -> None:
    place = weakref.ref(held)

    def lose(compromise: Any) -> None:
        if (hold := place()) is not None and hold.lost is None:
            hold.lost = compromise.reason

    held._lease = lease = _lease(path, lose)
    lease.acquire(timeout=0)
    HELD[str(path)] = held
    held._release = weakref.finalize(held, _give_back, lease)


def _give_back(lease: Any) -> None:
    with suppress(OSError):
        lease.release()


def _lease(path: Path, lose: Callable[[Any], None] | None = None) -> Any:
    from filelock import SoftFileLease

    return SoftFileLease(
        path, lease_duration=LIFETIME_S, heartbeat_interval=LIFETIME_S / 4, on_compromise=lose, thread_local=False
    )


@contextmanager
def _door(locks: Path, folder: Path) -> Iterator[str]:
    """One process at a time looks at the writers and registers. Gives this host's name, as leases have it."""
    from filelock import LeaseSettingsMismatch, Timeout

    door, end = _lease(locks / "door"), time.monotonic() + LIFETIME_S * 2
    try:
        while True:
            made = _made_empty(locks / "door")
            try:
                door.acquire(timeout=PATIENCE_S, poll_interval=POLL_S)
                break
            except Timeout:
                if made is not None and made == _made_empty(locks / "door"):
                    _drop_empty(locks / "door")
                elif time.monotonic() > end:
                    raise
    except (Timeout, LeaseSettingsMismatch):
        owner = door.owner
        who = f"process {owner.pid} on {owner.hostname}" if owner else "an unknown process"
        raise LockedError(
            f"{folder} is locked by {who}, which does not go on; expected that to take milliseconds: stop it, or "
            f"delete {locks / 'door'} if it is gone"
        ) from None
    except OSError:
        _drop_empty(locks / "door")
        raise
    try:
        own = door.owner
        yield own.hostname if own else ""
    finally:
        door.release()


def _writers(locks: Path) -> list[_Writer]:
    try:
        names = sorted(os.listdir(locks))
    except FileNotFoundError:
        return []
    # "door", and what filelock sets aside while it takes a lease over, have other names.
    return [_Writer(locks / name) for name in names if name.count(".") == 3]


def _locks(folder: Path) -> Path:
    return folder / HIDDEN / "locks"


def _cannot_lock(folder: Path, error: OSError) -> LockedError:
    return LockedError(
        f"cannot lock {folder}: {fault(error)}; expected a folder in which files can be made: use another output, or "
        "mend its permissions"
    )


def _made_empty(path: Path) -> int | None:
    """When a lease without its owner's name was made, on the clock of its disk; None for any other."""
    with suppress(OSError):
        found = path.stat()
        return None if found.st_size else found.st_mtime_ns
    return None


def _drop_empty(path: Path) -> None:
    """Delete a lease without its owner's name, of a process that was killed or met a full disk just then."""
    with suppress(OSError):
        if path.stat().st_size == 0:
            path.unlink()
