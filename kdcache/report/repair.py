"""`kdcache verify --repair`: make a damaged cache what it was, byte for byte, or say in a line why it cannot be.

What can be had without a teacher comes first: cache.json and its table from the commit records, one of these from the
table and its shard, any file from a copy of the cache, leftovers of killed writers. Then the tokenizer, the basis and
shards are made again, as a dump makes them (kdcache.dump.remake). Only damaged files are read twice, and only they are
written.
"""

import contextlib
import hashlib
from collections.abc import Callable, Iterable
from itertools import groupby

from kdcache.dump.remake import Remaker
from kdcache.dump.settings import DumpConfig
from kdcache.errors import CacheError, KdcacheError, UnreadableError, next_command, printable
from kdcache.owned.lock import hold
from kdcache.progress import Progress, show
from kdcache.report.dump_settings import dump_settings
from kdcache.store.cache import begun_header, read_cache_json, read_manifest
from kdcache.store.files import Root, UnexpectedFile
from kdcache.store.finished import read_finished
from kdcache.store.limits import most_of
from kdcache.store.manifest import CorpusPin, Header, Manifest
from kdcache.store.places import has_shards, record_name, unit_of
from kdcache.store.repair import (
    copy_from,
    digests,
    manifest_of_records,
    rebuild_records,
    restore_header,
    restore_skipped,
    sweep,
    write_manifest,
)
from kdcache.store.skipped import SKIPPED
from kdcache.store.verify import Fault, verify

__all__ = ["repair_cache"]


def repair_cache(path: str, *, config: str | None = None, copy: str | None = None, force: bool = False) -> list[Fault]:
    """Repair what can be repaired, and say each file that was.

    Args:
        path: The cache.
        config: The settings file of its dump; by default the settings that the cache keeps itself.
        copy: Another place of the same cache, to take files from.
        force: Delete files that are not the cache's.

    Returns:
        What is still wrong: the first fault of each file.

    Raises:
        CacheError: The cache was never finished, or its cache.json cannot be had again.
        LockedError: Somebody writes there.
    """
    root = Root(path)
    with contextlib.ExitStack() as stack:
        if root.local is not None and root.local.is_dir():
            stack.enter_context(hold(root.local, "repair", force=force))
        repair = Repair(root, lambda: dump_settings(root, config, "--repair"), None if copy is None else Root(copy))
        return repair.run(force=force)


class Repair:
    """settings: gives those of the dump, None where nobody knows them. copy: of the cache."""

    def __init__(self, root: Root, settings: Callable[[], DumpConfig | None], copy: Root | None) -> None:
        self.root, self.settings, self.copy = root, settings, copy
        self._remaker: Remaker | None = None

    def run(self, *, force: bool) -> list[Fault]:
        root, manifest = self.root, self._manifest()
        with Progress(manifest.totals.shards, "shards", "verify") as progress:
            faults = verify(root.url, progress.advance)
        damaged = {fault.shard for fault in faults if not fault.is_stranger and not fault.unreadable}
        self._say(restore_header(root, manifest, damaged), "as cache.json has it")
        of_shards = {fault.shard for fault in faults if not fault.is_stranger}
        if self.copy is not None:
            copied = copy_from(self.copy, root, manifest, damaged)
            self._say(copied, f"from {self.copy.url}")
            damaged -= {*copied}
        rebuilt = rebuild_records(root, manifest, damaged)
        self._say(rebuilt, "of its shard and shards.arrow")
        damaged -= {*rebuilt}
        refused = self._again(manifest, damaged)
        if SKIPPED in damaged:
            remaker, _ = self._open(manifest.header)
            restore_skipped(root, manifest, None if remaker is None else remaker.where)
            self._say([SKIPPED], "of the rows that cache.json names")
        strangers = [fault.shard for fault in faults if fault.is_stranger]
        self._say(sweep(root, strangers, force=force), "deleted")
        units = _units_of(manifest, of_shards)
        left = verify(root.url, units=units)
        first = [next(faults) for _, faults in groupby(left, lambda fault: fault.shard)]
        return [Fault(f.shard, f"{_bare(f.what)}: {refused[f.shard]}") if f.shard in refused else f for f in first]

    def _again(self, manifest: Manifest, damaged: set[str]) -> dict[str, str]:
        """Make files again. File -> why it could not be."""
        lost = {*digests(manifest, damaged)}
        if not lost:
            return {}
        remaker, why = self._open(manifest.header)
        if remaker is None:
            return dict.fromkeys(lost, why)
        tokenizer = [name for name in sorted(lost) if name.startswith("tokenizer/")]
        basis = manifest.header.basis is not None and manifest.header.basis.file in lost
        units = _units_of(manifest, lost)
        outcome = dict[str, str | None]()
        if tokenizer:
            outcome |= remaker.tokenizer_files(tokenizer)
        if basis or units:
            with Progress(len(units), "shards", "repair") as progress:
                try:
                    outcome |= remaker.basis_and_shards(basis, manifest.shards, units, progress.advance)
                except KdcacheError as error:
                    outcome |= {name: str(error) for unit in units for name in _files_of(manifest, unit)}
            outcome = {name: why for name, why in outcome.items() if name in lost}
        self._say([name for name, fault in outcome.items() if fault is None], "made again")
        return {name: fault for name, fault in outcome.items() if fault is not None}

    def _open(self, header: Header) -> tuple[Remaker | None, str]:
        """What the cache was made of, or why it is not there."""
        if self._remaker is not None:
            return self._remaker, ""
        try:
            settings = self.settings()
            if settings is None:
                again = next_command("verify", self.root.url, "--repair", "--config", "dump.yaml")
                return None, f"nothing says how it was made: with the settings file of its dump, {again}"
            self._remaker = Remaker(settings, self.root, header)
        except KdcacheError as error:
            return None, str(error)
        return self._remaker, ""

    def _manifest(self) -> Manifest:
        """cache.json; written again where it is lost or damaged. Raises CacheError where it cannot be."""
        root = self.root
        try:
            return read_manifest(root)
        except UnreadableError:
            raise
        except CacheError as error:
            if not has_shards(root):
                raise
            damage = error
        manifest, table = self._of_the_copy() or self._of_the_records(damage)
        lost = [name for name in (manifest.table.file, "cache.json") if not self._stands(name, manifest)]
        write_manifest(root, manifest, table)
        self._say(lost, "of header.json and the commit records")
        return read_manifest(root)

    def _stands(self, name: str, manifest: Manifest) -> bool:
        expected = manifest.table.sha256 if name == manifest.table.file else manifest.digest()
        try:
            return hashlib.sha256(self.root.read(name, most_of(name))).hexdigest() == expected
        except (FileNotFoundError, UnexpectedFile):
            return False

    def _cache_json(self) -> Manifest | None:
        """cache.json, where it can be read and its table alone is lost."""
        try:
            return read_cache_json(self.root)
        except UnreadableError:
            raise
        except (FileNotFoundError, CacheError):
            return None

    def _of_the_copy(self) -> tuple[Manifest, bytes] | None:
        """None where there is no copy, or it is known to be of another cache."""
        if self.copy is None:
            return None
        manifest, mark, mine = read_manifest(self.copy), read_finished(self.root), self._cache_json()
        known = {*([mark.sha256] if mark else []), *([mine.digest()] if mine else [])}
        if known and manifest.digest() not in known:
            return None
        return manifest, self.copy.read(manifest.table.file, manifest.table.bytes)

    def _of_the_records(self, damage: CacheError) -> tuple[Manifest, bytes]:
        """What cache.json and its table were, as the mark, or else cache.json itself, says. damage: why they are not
        read."""
        root, mark, mine = self.root, read_finished(self.root), self._cache_json()
        if mine is not None and begun_header(root) is None:
            self._say(restore_header(root, mine, ["header.json"]), "as cache.json has it")
        header = begun_header(root)
        if header is None:
            raise damage
        if mark is not None:
            made = manifest_of_records(root, mark.shards, mark.corpus)
            if made[0].digest() != mark.sha256:
                raise CacheError(
                    f"{_bare(str(damage))}; header.json and the commit records are those of another cache.json"
                )
            return made
        if mine is not None:
            made = manifest_of_records(root, mine.totals.shards, mine.corpus)
            if made[0].digest() == mine.digest():
                return made
        remaker, why = self._open(header)
        if remaker is None:
            raise CacheError(f"{_bare(str(damage))}; {why}")
        pin = CorpusPin.model_validate(remaker.corpus.pin)
        return manifest_of_records(root, remaker.corpus.num_units, pin)

    @staticmethod
    def _say(names: Iterable[str], how: str) -> None:
        for name in names:
            show(printable(f"{name}: {how}"))


def _files_of(manifest: Manifest, unit: int) -> tuple[str, str]:
    return manifest.shards.file(unit), record_name(unit)


def _units_of(manifest: Manifest, names: set[str]) -> list[int]:
    """Those whose shard or commit record is among the names."""
    found = {unit_of(manifest.header, name) for name in names}
    return sorted(unit for unit in found if unit is not None and unit < manifest.totals.shards)


def _bare(message: str) -> str:
    """Without the command that is running already."""
    return message.partition("; run ")[0]
