"""`kdcache verify`: read every byte of a cache, name what is damaged and what to type next; --repair mends it."""

import os
import time
from collections.abc import Sequence

from kdcache.errors import CacheError, UnreadableError, next_command, printable
from kdcache.progress import Progress, counted, show
from kdcache.report.verified import Verified
from kdcache.store.cache import read_manifest
from kdcache.store.files import Root
from kdcache.store.verify import Fault, verify

__all__ = ["verify_and_repair", "verify_cache"]


def verify_cache(path: str, *, jobs: int | None = None, anew: bool = False) -> None:
    """Prints a line for each fault, or one that all is well; writes nothing into the cache.

    A verify that was stopped goes on: what it found sound is not read again (kdcache.report.verified).

    Args:
        path: The cache.
        jobs: How many shards are read at the same time; by default as many as there are cores, at most 4.
        anew: Read every shard.

    Raises:
        CacheError: Something is wrong; it says what to type next.
    """
    manifest = read_manifest(Root(path))
    totals = manifest.totals
    with Verified(Root(path), manifest, anew=anew) as known, Progress(totals.shards, "shards", "verify") as progress:
        if len(known):
            progress.say(f"{counted(len(known), 'shard')} found sound by a verify that was stopped: not read again")
        begin = time.monotonic()

        def advance(count: int) -> None:
            mean = totals.bytes / totals.shards * (progress.count + count)
            progress.set(**{"MB/s": f"{mean / 1e6 / max(time.monotonic() - begin, 1e-3):,.0f}"})
            progress.advance(count)

        try:
            faults = verify(path, advance, jobs=jobs or min(os.cpu_count() or 1, 4), known=known)
            known.done()
        except UnreadableError as error:
            if not Root(path).remote:
                raise
            read = f"{progress.count:,} of {counted(totals.shards, 'shard')} were read"
            raise UnreadableError(
                f"{error}; {read}, and nothing says that a file is damaged: delete none, and when the store answers "
                f"{next_command('verify', path)}"
            ) from None
    _print(faults)
    if not faults:
        _say_sound(path)
        return
    _refuse_unreadable(path, faults, next_command("verify", path))
    damaged = _damaged(faults)
    force = ["--force"] if any(fault.needs_force for fault in faults) else []
    again = next_command("verify", path, "--repair", *force)
    if damaged:
        raise CacheError(f"{path}: {counted(len(damaged), 'file')} damaged, expected none; {again}")
    files = len({fault.shard for fault in faults})
    raise CacheError(f"{path}: {counted(files, 'file')} too many, expected none; {again}")


def verify_and_repair(path: str, *, config: str | None = None, copy: str | None = None, force: bool = False) -> None:
    """Repairs what can be (kdcache.report.repair). Raises CacheError where something is still wrong then."""
    from kdcache.report.repair import repair_cache

    faults = repair_cache(path, config=config, copy=copy, force=force)
    _print(faults)
    strangers = {fault.shard for fault in faults if fault.is_stranger}
    _refuse_unreadable(path, faults, next_command("verify", path, "--repair"))
    if damaged := _damaged(faults):
        raise CacheError(
            f"{path}: {counted(len(damaged), 'file')} still damaged, expected none: each line above says why; "
            f"or take {'it' if len(damaged) == 1 else 'them'} from a copy of the cache: "
            f"{next_command('verify', path, '--repair', '--from', 'COPY')}"
        )
    if strangers:
        raise CacheError(
            f"{path}: {counted(len(strangers), 'file')} that kdcache did not write, expected none: move "
            f"{'it' if len(strangers) == 1 else 'them'} elsewhere, or to delete "
            f"{next_command('verify', path, '--repair', '--force')}"
        )
    _say_sound(path)


def _damaged(faults: Sequence[Fault]) -> set[str]:
    return {fault.shard for fault in faults if not fault.is_stranger and not fault.unreadable}


def _refuse_unreadable(path: str, faults: Sequence[Fault], again: str) -> None:
    """Raises UnreadableError where a file cannot be read now, whatever is wrong with others."""
    unreadable = {fault.shard for fault in faults if fault.unreadable}
    if unreadable:
        others = f", and {counted(len(damaged), 'other')} damaged" if (damaged := _damaged(faults)) else ""
        raise UnreadableError(
            f"{path}: {counted(len(unreadable), 'file')} cannot be read now, expected to read all{others}; delete "
            f"nothing, mend what each line above says, and {again}"
        )


def _say_sound(path: str) -> None:
    totals = read_manifest(Root(path)).totals
    show(f"{path}: {counted(totals.shards, 'shard')}, {totals.bytes / 1e6:,.2f} MB, every digest and count is right")


def _print(faults: Sequence[Fault]) -> None:
    for fault in faults:
        show(printable(fault.what if fault.shard in fault.what else f"{fault.shard}: {fault.what}"))
