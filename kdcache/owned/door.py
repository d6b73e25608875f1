"""The door before the writers of a folder: one process at a time looks at their leases and registers.

It has two locks, both held for milliseconds. flock on the folder of the leases holds between the processes of a host,
and of all hosts where the file system passes it on; the kernel gives it back however a process ends. The lease
`locks/door` holds between hosts whose file system does not. Who has the first and finds the second without a name
knows that its maker was killed, and waits NAMELESS_S for one on another host; without flock it waits
NAMELESS_ELSEWHERE_S. It costs about 2 ms.
"""

import os
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from pathlib import Path
from typing import Any

from kdcache.errors import LockedError
from kdcache.owned import lease

try:
    import fcntl
except ImportError:  # not POSIX: the lease alone holds
    fcntl = None  # type: ignore[assignment]

__all__ = ["POLL_S", "door"]

STUCK_S = 20.0
"""How long one process of this host after the other may go through the door before the one in it is spoken of."""
NAMELESS_S = 0.2
NAMELESS_ELSEWHERE_S = 5.0
POLL_S = 0.02
DOOR = "door"


@contextmanager
def door(locks: Path, folder: Path) -> Iterator[str]:
    """One process at a time. Gives this host's name, as leases have it.

    Args:
        locks: The folder of the leases.
        folder: The output, as it is spoken of.

    Raises:
        LockedError: Another process stays in it: its number and host.
        OSError: No file can be made or read there.
    """
    from filelock import LeaseSettingsMismatch, Timeout

    held = lease.new(locks / DOOR)
    with _gate(locks) as alone:
        try:
            host = _enter(held, locks / DOOR, alone)
        except (Timeout, LeaseSettingsMismatch):
            raise _stuck(held, locks, folder) from None
        try:
            yield host
        finally:
            held.release()


@contextmanager
def _gate(locks: Path) -> Iterator[bool]:
    """Whether no other process of this host is inside."""
    descriptor = os.open(locks, os.O_RDONLY)
    try:
        alone = _flocked(descriptor)
        yield alone
        if alone:
            fcntl.flock(descriptor, fcntl.LOCK_UN)  # also where a forked child has the descriptor
    finally:
        os.close(descriptor)


def _flocked(descriptor: int) -> bool:
    end = time.monotonic() + STUCK_S
    while fcntl is not None and time.monotonic() < end:
        try:
            fcntl.flock(descriptor, fcntl.LOCK_EX | fcntl.LOCK_NB)
        except BlockingIOError:
            time.sleep(POLL_S / 4)
        except OSError:
            return False
        else:
            return True
    return False


def _enter(held: Any, path: Path, alone: bool) -> str:
    """Take the lease of the door. Raises Timeout or LeaseSettingsMismatch where its process lives and stays."""
    from filelock import LeaseSettingsMismatch, Timeout

    nameless: tuple[tuple[int, int] | None, float] = (None, 0.0)
    end = time.monotonic() + lease.LIFETIME_S * 1.5
    while True:
        try:
            held.acquire(timeout=0)
        except (Timeout, LeaseSettingsMismatch):
            owner, now = held.owner, time.monotonic()
            seen = _made(path) if owner is None else None
            if seen != nameless[0]:
                nameless = seen, now
            if seen is not None and now - nameless[1] > (NAMELESS_S if alone else NAMELESS_ELSEWHERE_S):
                lease.drop_nameless(path)
            if not lease.drop_unburied(held) and now > end:
                raise
            time.sleep(POLL_S)
            continue
        except OSError:
            lease.drop_nameless(path)
            raise
        owner = held.owner
        if owner is not None and owner.token == held.token:
            return str(owner.hostname)
        try:
            if owner is None:
                _opened(path)
        finally:
            held.release()  # this process slept before it wrote its name, and was taken for a dead one


def _opened(path: Path) -> None:
    """Raises OSError where a file that is there cannot be read, as where a process has no file descriptor left."""
    with suppress(FileNotFoundError):
        os.close(os.open(path, os.O_RDONLY))


def _made(path: Path) -> tuple[int, int] | None:
    """Which file it is, and since when on the clock of its disk."""
    with suppress(OSError):
        found = path.stat()
        return found.st_ino, found.st_ctime_ns
    return None


def _stuck(held: Any, locks: Path, folder: Path) -> LockedError:
    owner = held.owner
    who = f"process {owner.pid} on {owner.hostname}" if owner else "an unknown process"
    return LockedError(
        f"{folder} is locked by {who}, which does not go on; expected that to take milliseconds: stop it, or delete "
        f"{locks / DOOR} if it is gone"
    )
