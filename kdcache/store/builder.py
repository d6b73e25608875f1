"""CacheBuilder: begin or resume a cache, commit its units in any order from any number of processes, finalize it.

A sink for the partitions of any scheduler: a unit is committed once its shard and then its commit record are in place,
writing one again replaces it, and whoever finds every unit committed may finalize, with no word between processes. A
killed process leaves at most hidden temporary files, which finalize sweeps away. Same header and same units give the
same bytes, whoever writes and however often it was interrupted.

A builder is a writer of its header's settings (owned/lock.py): builders of the same settings share a folder, from any
number of processes and hosts, and one of others is refused while they live.
"""

import contextlib
import os
import re
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from importlib.metadata import version
from typing import TYPE_CHECKING, Self

import numpy as np

from kdcache import __version__
from kdcache.errors import CacheError, next_command
from kdcache.store.backend import backend_versions
from kdcache.store.basis_file import decode_basis, forget_other_bases, read_basis, write_basis
from kdcache.store.cache import begun_header
from kdcache.store.commits import Commits, Scan
from kdcache.store.files import Root
from kdcache.store.finished import mark_finished, unfinish
from kdcache.store.limits import most_of
from kdcache.store.manifest import (
    BasisPin,
    CalibrationPin,
    CommitRecord,
    CorpusPin,
    Header,
    Manifest,
    SkippedRow,
    canonical,
    difference,
)
from kdcache.store.output import CacheOutput
from kdcache.store.pinned import read_pinned
from kdcache.store.places import has_shards, names_of_shards, sweep_leftovers
from kdcache.store.shard import commit_shard, make_shard, repair_command, with_another_stamp
from kdcache.store.shards import manifest_of
from kdcache.store.skipped import write_skipped
from kdcache.store.unit import Unit
from kdcache.targets.records import calibrated_of
from kdcache.tasks.score import Score

if TYPE_CHECKING:
    from kdcache.targets.basis import Basis
    from kdcache.targets.calibration import Encoder

    MakeBasis = Callable[[], tuple[Basis, CalibrationPin | None]]

__all__ = ["OF_EVERY_BACKEND", "CacheBuilder", "library_versions"]

OF_EVERY_BACKEND = ("kdcache", "numpy", "torch")
"""What the bytes of a shard depend on, however it is stored."""

OF_THE_TEACHERS_FILES = ("teacher.files", "teacher.weights_sha256")


class CacheBuilder:
    """A cache that is being made, unit by unit:

        builder = CacheBuilder("my-cache", header, tokenizer_folder)
        for index in my_share_of_the_units:
            if index not in builder.committed():
                with builder.unit(index) as unit:
                    unit.add(tokens, logits)
        builder.finalize(num_units)                 # once every unit is committed

    header: what the cache was begun with. basis: of calibrated records. begun_anew: the key of the header that another
    corpus gave another value, where older shards do not count for that.
    """

    begun_anew: str | None = None

    def __init__(
        self,
        path: str | os.PathLike[str] | CacheOutput,
        header: Header,
        tokenizer_folder: str | os.PathLike[str] | None = None,
        *,
        resume: bool = True,
        make_basis: "MakeBasis | None" = None,
        basis_fault: Callable[[BasisPin], str | None] = lambda pin: None,
        from_corpus: Collection[str] = (),
    ) -> None:
        """Begin a cache, or go on with one of the same settings.

        Args:
            path: folder or fsspec URL, or a CacheOutput with more.
            header: what decides the bytes of every shard.
            tokenizer_folder: holds the files that header.tokenizer names.
            resume: go on with a cache that is begun; False refuses it.
            make_basis: gives the basis of calibrated records, and what it was made of, where the cache is not begun.
            basis_fault: why the basis of a begun cache is not the one that would be made now.
            from_corpus: keys of the header that are made of the corpus; where a cache was begun with others of these
                alone, it begins anew.

        Raises:
            CacheError: where the folder holds shards of other settings, naming the first that differs.
            ConfigError: where the folder is not ours.
            LockedError: where another process writes a cache of other settings there.
        """
        output = path if isinstance(path, CacheOutput) else CacheOutput(path)
        self.root = Root(output.path)
        self.header = header
        self.basis: Basis | None = None
        output.check()
        self._begun(resume)
        self.held = output.take(header.settings.digest())
        try:
            self._begin(tokenizer_folder, self._begun(resume), make_basis, basis_fault, from_corpus, output)
        except BaseException:
            self.release()
            raise
        self._scan = Scan(self.root, self.header)

    def release(self) -> None:
        """Say that this builder writes no more, so that another one may; the end of the process says so too."""
        self.held.release()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        self.release()

    def _begun(self, resume: bool) -> Header | None:
        begun = begun_header(self.root)
        if begun is None and self.root.exists("cache.json"):
            raise CacheError(f"{self.root.url} holds a cache without its header.json; {repair_command(self.root)}")
        if begun is not None and not resume:
            raise CacheError(f"{self.root.url} already holds a cache, expected a new folder, or resume=True to go on")
        return begun

    def _begin(
        self,
        tokenizer_folder: str | os.PathLike[str] | None,
        begun: Header | None,
        make_basis: "MakeBasis | None",
        basis_fault: Callable[[BasisPin], str | None],
        from_corpus: Collection[str],
        output: CacheOutput,
    ) -> None:
        """The header that is there, or this one's. Raises CacheError where the shards there are of other settings."""
        header = self.header
        fault = begun.basis and basis_fault(begun.basis) if begun else None
        if begun is not None and has_shards(self.root):
            self.begun_anew = _other_corpus(begun.settings, header, from_corpus)
            if fault and not difference(begun.settings, header):
                raise CacheError(f"{self.root.url} was begun with another basis: {fault}; use another output folder")
            anew = self.begun_anew is not None
        else:  # nothing is lost by beginning anew
            anew = begun is None or fault is not None or difference(begun.settings, header) is not None
        if not anew:
            assert begun is not None
            self._go_on(begun)
            return
        if begun is not None and self.root.remote and not output.force:
            raise CacheError(
                f"{self.root.url} was begun with another header.json, and a remote store cannot tell whether somebody "
                "still writes there: use another output, or give --force to begin anew"
            )
        unfinish(self.root)
        if begun is not None:
            self._forget(begun)
        self._pin(tokenizer_folder, make_basis)

    def _forget(self, begun: Header) -> None:
        """Of several writers that begin anew, one deletes the header that was there, and one's new one stays."""
        with self.held.alone():
            if begun_header(self.root) == begun:
                self.root.delete("header.json")

    def _go_on(self, begun: Header) -> None:
        """With a cache of the same settings: its basis, and so its header, are what it was begun with."""
        if found := difference(begun.settings, self.header):
            key, there, here = found
            raise CacheError(
                f"{self.root.url} was begun with {key} {_short(there)}, got {_short(here)}: "
                f"{_remedy(key)} to go on, or use another output folder"
            )
        self.header = begun
        if begun.basis is not None:
            self.basis = decode_basis(self.root, begun, read_basis(self.root, begun))

    def _pin(self, tokenizer_folder: str | os.PathLike[str] | None, make_basis: "MakeBasis | None") -> None:
        """The header goes last: where it is, the tokenizer and the basis are. Of several writers the first one's."""
        if self.header.tokenizer is not None:
            if tokenizer_folder is None:
                raise CacheError(
                    "got a header with a tokenizer and no tokenizer_folder, expected the folder of its files"
                )
            source = Root(tokenizer_folder)
            for name, sha256 in self.header.tokenizer.files.items():
                data = read_pinned(source, name, sha256, most_of(f"tokenizer/{name}"), "copy it again")
                self.root.write(f"tokenizer/{name}", data)
        settings = self.header
        if calibrated_of(settings.records) is not None:
            if make_basis is None:
                raise CacheError(
                    "got a header of calibrated records and no make_basis, expected what makes their basis"
                )
            self.header = write_basis(self.root, settings, *make_basis())
        with self.held.alone():
            self.root.create("header.json", canonical(self.header))
        begun = begun_header(self.root)
        assert begun is not None
        self.header = settings
        self._go_on(begun)
        if begun.basis is not None:
            forget_other_bases(self.root, begun)

    @contextlib.contextmanager
    def unit(self, index: int, source_sha256: str = "", encoder: "Encoder | None" = None) -> Iterator[Unit]:
        """Fill a unit and commit it on leaving the block; after an error nothing is written.

        Args:
            index: its number, from 0.
            source_sha256: digest of what the unit was made from, kept in its commit record.
            encoder: of calibrated records.
        """
        unit = Unit(self.header, index, encoder)
        yield unit
        self.commit(index, unit.arrays(), source_sha256=source_sha256, notes=unit.notes)

    def commit(
        self,
        index: int,
        arrays: Mapping[str, np.ndarray],
        *,
        source_sha256: str = "",
        notes: Mapping[str, int] | None = None,
        skipped: Sequence[SkippedRow] = (),
        made_under: Mapping[str, str] | None = None,
        taken: Sequence[str] = (),
        score: Score | None = None,
        expected: tuple[str, str] | None = None,
    ) -> CommitRecord:
        """Write the arrays of a unit, {field.name: flat array} and counts, and then its commit record.

        score: of these arrays, where it is known. taken: of which examples of a source they are.
        expected: the digests that a finished cache has of this shard, which was lost, and of its commit record.
        Raises CacheError where it cannot be written or is another than was expected, LockedError where somebody took
        the folder over.
        """
        self.held.check()
        made = make_shard(
            self.header,
            index,
            arrays,
            source_sha256=source_sha256,
            notes=notes,
            skipped=skipped,
            made_under=made_under,
            taken=taken,
            score=score,
        )
        if expected is not None and (made[1].sha256, made[1].digest()) != expected:
            raise CacheError(
                f"{self.root.url}/{made[1].file} was lost or damaged, and made again it has another digest: other "
                f"hardware, or other versions of a library; take it from a copy of the cache, "
                f"{next_command('verify', self.root.url, '--repair', '--from', 'COPY')}, or delete cache.json to have "
                "another cache, and run the same command again"
            )
        return commit_shard(self.root, *made)

    def commit_copy(self, index: int, source: Root, header: Header, commit: CommitRecord, data: bytes) -> CommitRecord:
        """Commit a shard of another cache with its blocks as they are, where the backend `Restamps`.

        Args:
            index: The number of the unit that it becomes.
            source: The other cache.
            header: Its header.
            commit: The commit record of the shard there.
            data: The bytes of the shard, which have the digest in the record.

        Raises:
            DamagedShardError: They are not that shard.
            CacheError: It cannot be written.
            LockedError: Somebody took the folder over.
        """
        self.held.check()
        return commit_shard(self.root, *with_another_stamp(source, header, commit, data, self.header, index))

    def committed(self) -> set[int]:
        """Units with a valid commit record."""
        return {*self.commits().units.tolist()}

    def forget_beyond(self, num_units: int) -> None:
        """Delete the shards of later units and their records, of whatever header."""
        units = {name: re.match(r"shards/\d+/(\d{6,})\.", name) for name in names_of_shards(self.root)}
        beyond = [name for name, unit in units.items() if unit and int(unit[1]) >= num_units]
        self.root.delete(sorted(beyond, key=lambda name: not name.endswith(".json")))

    def finalize(
        self,
        num_units: int,
        *,
        corpus: CorpusPin | None = None,
        where: Callable[[int, int], str] = lambda unit, row: f"unit {unit}, row {row + 1}",
        commits: Commits | None = None,
    ) -> Manifest:
        """Write cache.json for units 0 to num_units - 1: the same bytes, whoever calls this and however often.

        corpus: what the shards were made of. where: (unit, row) -> the place of a row that was left out.
        commits: what `commits` gave just now, by default what it gives.
        Raises CacheError while a unit is missing, or where there is one too many.
        """
        commits = self.commits() if commits is None else commits
        missing = np.setdiff1d(np.arange(num_units), commits.units, assume_unique=True)
        if len(missing):
            raise CacheError(
                f"{self.root.url} is not finished: {len(missing)} of {num_units} units are missing, "
                f"the first is {missing[0]}; run the same command again to go on"
            )
        if len(commits) > num_units:
            raise CacheError(
                f"{self.root.url} holds unit {commits.units[-1]}, expected {num_units} units: "
                "an earlier run wrote more; use another output folder"
            )
        self.held.check()
        manifest, table = manifest_of(self.header, commits, corpus, self.root)
        self.root.write(manifest.table.file, table)
        write_skipped(self.root, manifest, commits.skipped(), where)
        mark_finished(self.root, manifest)
        self.root.write("cache.json", canonical(manifest))
        sweep_leftovers(self.root)
        return manifest

    def commits(self) -> Commits:
        """The valid commit records as they are now: of this header, with a shard of that size in place.

        A damaged one counts as none, which is said. Raises UnreadableError for one that cannot be read.
        """
        return self._scan.commits()

    def why_not(self, unit: int) -> str:
        """What is wrong with a unit that is not among `commits`, with its verb."""
        return self._scan.why_not(unit)


def _other_corpus(begun: Header, header: Header, keys: Collection[str]) -> str | None:
    """The first key at which these headers differ, if they differ in those keys alone."""
    found = difference(begun, header)
    same = begun.model_copy(update={key: getattr(header, key) for key in keys})
    return found[0] if found and difference(same, header) is None else None


def library_versions(backend: str, *, teacher: bool = False) -> dict[str, str]:
    """Versions of what the bytes of a shard depend on. Raises ConfigError for an unknown backend."""
    names = ("numpy", *(("torch",) if teacher else ()))
    return {"kdcache": __version__, **backend_versions(backend), **{name: version(name) for name in names}}


def _remedy(key: str) -> str:
    if key.startswith(OF_THE_TEACHERS_FILES):
        return "put that file of the teacher back as it was"
    return "go where the hardware is the same" if key == "compute.hardware" else "use the same settings"


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
