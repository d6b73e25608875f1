"""`kdcache verify --repair`: make a damaged cache what it was, byte for byte, or say in a line why it cannot be.

What can be had without a teacher comes first: cache.json from the commit records, these from cache.json, any file
from a copy of the cache, leftovers of killed writers. Then the tokenizer, the basis and shards are made again, as a
dump makes them (kdcache.dump.remake). Only damaged files are read twice, and only they are written.
"""

import contextlib
from collections.abc import Callable, Iterable
from itertools import groupby

from kdcache.dump.remake import Remaker
from kdcache.dump.settings import DumpConfig
from kdcache.errors import CacheError, KdcacheError, UnreadableError, next_command, printable
from kdcache.owned.lock import hold
from kdcache.progress import Progress, show
from kdcache.report.dump_settings import dump_settings
from kdcache.store.cache import begun_header, read_manifest
from kdcache.store.files import Root
from kdcache.store.finished import read_finished
from kdcache.store.manifest import CorpusPin, Header, Manifest, canonical
from kdcache.store.places import has_shards, record_name
from kdcache.store.repair import copy_from, digests, manifest_of_records, restore_records, restore_skipped, sweep
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
        self._say(restore_records(root, manifest, damaged), "as cache.json has it")
        if self.copy is not None:
            copied = copy_from(self.copy, root, manifest, damaged)
            self._say(copied, f"from {self.copy.url}")
            damaged -= {*copied}
        refused = self._again(manifest, damaged)
        if SKIPPED in damaged:
            remaker, _ = self._open(manifest.header)
            restore_skipped(root, manifest, None if remaker is None else remaker.where)
            self._say([SKIPPED], "of the rows that cache.json names")
        strangers = [fault.shard for fault in faults if fault.is_stranger]
        self._say(sweep(root, strangers, force=force), "deleted")
        of_shards = damaged | {fault.shard for fault in faults if fault.unreadable}
        units = {commit.unit for commit in manifest.shards if {commit.file, record_name(commit.unit)} & of_shards}
        left = verify(root.url, units=units)
        first = [next(faults) for _, faults in groupby(left, lambda fault: fault.shard)]
        return [Fault(f.shard, f"{_bare(f.what)}: {refused[f.shard]}") if f.shard in refused else f for f in first]

    def _again(self, manifest: Manifest, damaged: set[str]) -> dict[str, str]:
        """Make files again. File -> why it could not be."""
        lost = damaged & digests(manifest).keys()
        if not lost:
            return {}
        remaker, why = self._open(manifest.header)
        if remaker is None:
            return dict.fromkeys(lost, why)
        tokenizer = [name for name in sorted(lost) if name.startswith("tokenizer/")]
        basis = manifest.header.basis is not None and manifest.header.basis.file in lost
        commits = [commit for commit in manifest.shards if commit.file in lost]
        outcome = dict[str, str | None]()
        if tokenizer:
            outcome |= remaker.tokenizer_files(tokenizer)
        if basis or commits:
            with Progress(len(commits), "shards", "repair") as progress:
                try:
                    outcome |= remaker.basis_and_shards(basis, commits, progress.advance)
                except KdcacheError as error:
                    outcome |= {commit.file: str(error) for commit in commits}
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
        manifest = self._of_the_copy() or self._of_the_records(damage)
        root.write("cache.json", canonical(manifest))
        self._say(["cache.json"], "of header.json and the commit records")
        return read_manifest(root)

    def _of_the_copy(self) -> Manifest | None:
        return None if self.copy is None else read_manifest(self.copy)

    def _of_the_records(self, damage: CacheError) -> Manifest:
        """What cache.json was. damage: why it is not read."""
        header, mark = begun_header(self.root), read_finished(self.root)
        if header is None:
            raise damage
        if mark is not None:
            manifest = manifest_of_records(self.root, mark.shards, mark.corpus)
            if manifest.digest() != mark.sha256:
                raise CacheError(
                    f"{_bare(str(damage))}; header.json and the commit records are those of another cache.json"
                )
            return manifest
        remaker, why = self._open(header)
        if remaker is None:
            raise CacheError(f"{_bare(str(damage))}; {why}")
        pin = CorpusPin.model_validate(remaker.corpus.pin)
        return manifest_of_records(self.root, remaker.corpus.num_units, pin)

    @staticmethod
    def _say(names: Iterable[str], how: str) -> None:
        for name in names:
            show(printable(f"{name}: {how}"))


def _bare(message: str) -> str:
    """Without the command that is running already."""
    return message.partition("; run ")[0]
