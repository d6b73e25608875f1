"""One lease: a file that names the process which holds it, filelock's SoftFileLease.

It is made with O_EXCL, names host, process and the process' start, and its time is renewed by a thread (a heartbeat
each LIFETIME_S / 4). A lease counts as dead where its process is gone on this host (at once, also where its number is
another process' now, or where nobody has waited for it yet), and elsewhere after LIFETIME_S without a heartbeat, on
the clock of who looks: clocks of hosts need not agree. A process that is killed between two steps may leave a lease
without a name, or what filelock sets aside while it takes a dead one's over; `drop_nameless` and `drop_set_aside` are
for those.
"""

import os
from collections.abc import Callable
from contextlib import suppress
from pathlib import Path
from typing import Any

__all__ = [
    "LIFETIME_S",
    "acquire",
    "drop_nameless",
    "drop_set_aside",
    "drop_unburied",
    "is_alive",
    "is_set_aside",
    "new",
]

LIFETIME_S = 60.0
SET_ASIDE = (".break.", ".restore.")


def new(path: Path, lose: Callable[[Any], None] | None = None) -> Any:
    """A lease, which is not taken yet. lose: called from its thread when another process took it over."""
    from filelock import SoftFileLease

    return SoftFileLease(
        path, lease_duration=LIFETIME_S, heartbeat_interval=LIFETIME_S / 4, on_compromise=lose, thread_local=False
    )


def acquire(lease: Any, path: Path) -> None:
    """Take a lease that nobody has, and bring its name to the disk, so that other hosts see it too.

    Raises OSError where no file can be made or written; nothing of it is left then.
    """
    try:
        lease.acquire(timeout=0)
        descriptor = os.open(path, os.O_RDONLY)
        try:
            os.fsync(descriptor)
        finally:
            os.close(descriptor)
    except OSError:
        with suppress(OSError):
            lease.release()
        drop_nameless(path)
        raise


def is_alive(lease: Any) -> bool:
    """Whether its process may be. A dead one's lease is taken and given back, which deletes it."""
    from filelock import LeaseSettingsMismatch, Timeout

    if drop_unburied(lease):
        return False
    try:
        lease.acquire(timeout=0)
    except (Timeout, LeaseSettingsMismatch):
        return True
    lease.release()
    return False


def drop_nameless(path: Path) -> None:
    """Delete a lease that names nobody. Only for who knows that none is being made there."""
    with suppress(OSError):
        if new(path).owner is None:
            path.unlink()


def is_set_aside(name: str) -> bool:
    """Whether filelock gives files this name while it takes a dead process' lease over."""
    return any(part in name for part in SET_ASIDE)


def drop_set_aside(locks: Path) -> None:
    """Delete what killed processes set aside. A living one that loses its file takes nothing over, and looks again."""
    for name in os.listdir(locks):
        if is_set_aside(name) and not new(locks / name).is_lock_held_by_us:
            (locks / name).unlink(missing_ok=True)


def drop_unburied(lease: Any) -> bool:
    """Delete the lease of a process of this host that has ended while its parent does not know it yet.

    So it is in a container without an init. Returns whether it was deleted.
    """
    owner = lease.owner
    if owner is None or owner.start is None:
        return False
    with suppress(OSError, IndexError, ValueError):
        boot = int(Path("/proc/sys/kernel/random/boot_id").read_text().strip().replace("-", ""), 16)
        state, *fields = Path(f"/proc/{owner.pid}/stat").read_text().rpartition(")")[2].split()
        if state in "ZX" and (boot << 64) | int(fields[18]) == owner.start:
            lease.force_break()
            return True
    return False
