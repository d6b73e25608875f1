"""Verify a cache: everything that can be checked without the teacher.

    cache.json     its totals are those of shards.arrow and of the commit records, header.json is the same
    shards.arrow   sha256, counts that can be
    tokenizer/     every file in place, sha256
    basis          in place, sha256, no number is NaN
    skipped.jsonl  the rows that shards.arrow says were left out
    shards/        every shard and commit record in place and as in shards.arrow: size, sha256, counts; nothing else,
                   and no leftovers of a killed writer in any folder
    in a shard     its stamp, and what content.py says of its arrays

It reads every byte once, 0.1–0.5 GB of shards per second, and writes nothing: repair.py does.
"""

import hashlib
import os
from collections.abc import Callable, Collection, Iterator, Mapping
from dataclasses import dataclass
from functools import partial
from typing import Any, Protocol

from kdcache.errors import CacheError, UnreadableError
from kdcache.store.basis_file import decode_basis, is_basis, read_basis
from kdcache.store.cache import read_manifest
from kdcache.store.files import Root, UnexpectedFile
from kdcache.store.limits import check_room
from kdcache.store.manifest import Header, Manifest, Totals, canonical
from kdcache.store.parallel import in_order
from kdcache.store.places import own_folders, record_name, unit_of
from kdcache.store.shard import fetch_shard, repair_command, shard_faults
from kdcache.store.skipped import SKIPPED, read_skipped
from kdcache.store.table import TABLE
from kdcache.store.tokenizer_files import read_tokenizer_file
from kdcache.tasks.score import Score, total_score

__all__ = ["Fault", "Known", "strangers", "verify"]

LEFT_OVER = "is left over from a killed writer"
STRANGE = "is not part of the cache"
OTHER = "is not what cache.json says"
MISSING = "is missing"


@dataclass(frozen=True)
class Fault:
    """shard: the file that is wrong, by its name in the cache. what: one line. unreadable: it may be sound."""

    shard: str
    what: str
    unreadable: bool = False

    @property
    def is_stranger(self) -> bool:
        """Whether nothing of the cache is wrong, and this file is one too many."""
        return self.what in (LEFT_OVER, STRANGE)

    @property
    def needs_force(self) -> bool:
        """Whether a repair leaves the file alone: nobody knows whose it is."""
        return self.what == STRANGE


class Known(Protocol):
    """The shards that are known to be sound."""

    def __contains__(self, unit: int) -> bool: ...

    def add(self, unit: int) -> None:
        """A shard was found sound."""


def verify(
    path: str | os.PathLike[str],
    progress: Callable[[int], object] | None = None,
    *,
    units: Collection[int] | None = None,
    jobs: int = 1,
    known: Known | None = None,
) -> list[Fault]:
    """The faults of a finished cache.

    Args:
        path: A folder, or any URL that fsspec reads.
        progress: Called with 1 after each shard.
        units: The shards to read, by default all.
        jobs: How many are read at the same time. Each takes the memory of a decoded shard.
        known: Of the shards that are in it, their commit records alone are read.

    Returns:
        The faults, none for a sound cache.

    Raises:
        CacheError: It is no finished cache, or its cache.json is damaged.
        UnreadableError: A store does not answer, or refuses: nothing is known of the cache then. A file of a disk that
            cannot be read is a fault with `unreadable`, and the others are read.
    """
    root = Root(path)
    manifest = read_manifest(root)
    wanted = range(manifest.totals.shards) if units is None else sorted({*units})
    faults, score, recorded = [*_pinned_faults(root, manifest.header)], _Sum(), True
    asked = ((unit, known is not None and unit in known) for unit in wanted)
    for (unit, _), checked in in_order(partial(_check, root, manifest), asked, jobs if jobs > 1 else 0):
        faults += checked.faults
        if known is not None and not checked.faults:
            known.add(unit)
        recorded = recorded and checked.is_recorded
        score.add(checked.score)
        if progress:
            progress(1)
    if recorded and units is None and not score.is_of(manifest.totals):
        faults.append(Fault("cache.json", "has a score that is not the sum of those of the commit records"))
    return [*faults, *_besides_faults(root, manifest), *strangers(root, manifest)]


def strangers(root: Root, manifest: Manifest) -> Iterator[Fault]:
    """Files that are none of the cache's: in the folders that are its own, and leftovers and old bases beside them."""
    header = manifest.header
    known = {f"tokenizer/{name}" for name in (header.tokenizer.files if header.tokenizer else ())}
    folders = own_folders(root)
    for sub in folders:
        yield from (Fault(f"{sub}/{name}".lstrip("/"), LEFT_OVER) for name in root.leftovers(sub))
    bases = {name for name in root.list() if is_basis(name)} - ({header.basis.file} if header.basis else set())
    found = {f"{sub}/{name}" for sub in folders if sub for name in root.list(sub)} - known
    units = ((name, unit_of(header, name)) for name in found)
    strange = {name for name, unit in units if unit is None or unit >= manifest.totals.shards}
    yield from (Fault(name, STRANGE) for name in sorted(bases | strange))


def _fault(root: Root, name: str, error: CacheError) -> Fault:
    """Raises UnreadableError where a store does not answer: that says nothing of the file, nor of the others."""
    unreadable = isinstance(error, UnreadableError)
    if root.remote and unreadable:
        raise error
    return Fault(name, str(error), unreadable)


def _pinned_faults(root: Root, header: Header) -> Iterator[Fault]:
    yield from _differs(root, "header.json", canonical(header))
    for name, sha256 in (header.tokenizer.files if header.tokenizer else {}).items():
        try:
            read_tokenizer_file(root, name, sha256)
        except CacheError as error:
            yield _fault(root, f"tokenizer/{name}", error)
    if header.basis is not None:
        try:
            decode_basis(root, header, read_basis(root, header))
        except CacheError as error:
            yield _fault(root, header.basis.file, error)


@dataclass(frozen=True)
class _Checked:
    """faults: of a shard and its commit record. score: of the record, None of one that is lost, too."""

    faults: list[Fault]
    is_recorded: bool
    score: Mapping[str, Any] | None = None


def _check(root: Root, manifest: Manifest, asked: tuple[int, bool]) -> _Checked:
    """A commit record and its shard. asked: which, and whether the shard is known to be sound.

    Without the record, the bytes of the shard are compared with their digest alone, and not decoded.
    """
    shards, (unit, is_known) = manifest.shards, asked
    name, remedy = record_name(unit), repair_command(root)
    record, faults = None, list[Fault]()
    try:
        data = root.read(name, shards.number("record_bytes", unit))
        if shards.record_fault(unit, data) is None:
            record = shards.parsed(unit, data, f"{root.url}/{name}", remedy)
        else:
            faults.append(Fault(name, OTHER))
    except UnexpectedFile:
        faults.append(Fault(name, OTHER))
    except FileNotFoundError:
        faults.append(Fault(name, MISSING))
    except CacheError as error:
        faults.append(_fault(root, name, error))
    if record is None:
        return _Checked([*faults, *_pinned_fault(root, manifest, unit)], is_recorded=False)
    if not is_known:
        try:
            data = fetch_shard(root, manifest.header, record)
            faults += [_fault(root, record.file, error) for error in shard_faults(root, manifest.header, record, data)]
        except CacheError as error:
            faults.append(_fault(root, record.file, error))
    return _Checked(faults, True, None if record.score is None else record.score.root)


def _pinned_fault(root: Root, manifest: Manifest, unit: int) -> Iterator[Fault]:
    """Of a shard of which the size and the digest are all that is known."""
    shards = manifest.shards
    name, expected = shards.file(unit), shards.digest("sha256", unit)
    try:
        check_room(f"{root.url}/{name}", manifest.header.fields, shards.sizes(unit), shards.number("bytes", unit))
        data = root.read(name, shards.number("bytes", unit))
        if (got := hashlib.sha256(data).hexdigest()) != expected:
            yield Fault(name, f"is damaged: got sha256 {got[:12]}…, expected {expected[:12]}…")
    except FileNotFoundError:
        yield Fault(name, MISSING)
    except CacheError as error:
        yield _fault(root, name, error)


class _Sum:
    """The score of some shards, added up as they come."""

    def __init__(self) -> None:
        self._total: Score | None = None
        self._adds_up = True

    def add(self, score: Mapping[str, Any] | None) -> None:
        """score: of a shard; None where it has none."""
        if score is None or not self._adds_up:
            return
        try:
            self._total = total_score([*([] if self._total is None else [self._total.root]), score])
        except (TypeError, ValueError, ArithmeticError, AttributeError):  # of different kinds
            self._adds_up = False

    def is_of(self, totals: Totals) -> bool:
        """Whether it is what cache.json says."""
        return self._adds_up and self._total == totals.score


def _besides_faults(root: Root, manifest: Manifest) -> Iterator[Fault]:
    """Of the notes, and of the list of rows that were left out."""
    try:
        notes, expected = dict[str, int](), dict[tuple[int, int], str]()
        for unit, besides in manifest.shards.besides():
            for note, count in besides.notes.items():
                notes[note] = notes.get(note, 0) + count
            expected |= {(unit, row.row): row.why for row in besides.skipped or ()}
    except CacheError as error:
        yield Fault(TABLE, str(error))
        return
    if notes != manifest.totals.notes:
        yield Fault("cache.json", f"has notes that are not the sums of those of {TABLE}")
    try:
        if {row: why for row, (_, why) in read_skipped(root, manifest).items()} != expected:
            yield Fault(SKIPPED, f"does not list the rows that {TABLE} says were left out")
    except CacheError as error:
        yield _fault(root, SKIPPED, error)


def _differs(root: Root, name: str, expected: bytes) -> Iterator[Fault]:
    try:
        if root.read(name, len(expected)) != expected:
            yield Fault(name, OTHER)
    except UnexpectedFile:
        yield Fault(name, OTHER)
    except FileNotFoundError:
        yield Fault(name, MISSING)
    except UnreadableError as error:
        yield _fault(root, name, error)
