"""Make lost files of a finished cache again: its tokenizer, its basis, some of its shards.

They go the very way of a dump, under the header that the cache has, and are written where their digest is the recorded
one. Other hardware or other versions of a library may give other digests: these are refused, and what differs is named.
"""

import contextlib
import hashlib
import tempfile
from collections.abc import Callable, Collection, Iterator, Mapping
from importlib.metadata import PackageNotFoundError, version
from typing import Any

import torch

from kdcache.corpus import Corpus
from kdcache.dump.begin import made_header
from kdcache.dump.calibrate import calibrate
from kdcache.dump.lazy_teacher import LazyTeacher, begun_ways, devices_of
from kdcache.dump.material import Material, gather
from kdcache.dump.records import unit_arrays
from kdcache.dump.settings import DumpConfig
from kdcache.dump.units import remedies
from kdcache.errors import CacheError
from kdcache.launcher import World
from kdcache.store.basis_file import decode_basis, encode_basis, read_basis
from kdcache.store.files import Root
from kdcache.store.limits import most_of
from kdcache.store.manifest import Header, difference
from kdcache.store.pinned import read_pinned
from kdcache.store.places import record_name
from kdcache.store.shard import commit_shard, make_shard
from kdcache.store.shards import Shards
from kdcache.store.tokenizer_files import pin_tokenizer
from kdcache.targets.calibration import Encoder
from kdcache.targets.records import calibrated_of
from kdcache.tasks.tokenizer import save_tokenizer

__all__ = ["Remaker"]

TOKENIZER = "tokenizer/"


class Remaker:
    """What a cache was made of, opened once.

    Args:
        config: The settings of its dump.
        root: The cache.
        header: Of the cache.

    Raises:
        KdcacheError: Corpus, tokenizer or teacher are not there any more.
    """

    def __init__(self, config: DumpConfig, root: Root, header: Header) -> None:
        self.root, self.header, pinned = root, header, header.compute
        corpus = config.corpus.model_copy(update={"unit_rows": pinned.get("unit_rows", config.corpus.unit_rows)})
        self.config = config.model_copy(update={"output": root.url, "corpus": corpus})
        self.material: Material = gather(self.config)
        self.teacher = LazyTeacher(
            self.material, devices_of(self.config.teacher, self.config.compute, World()), World()
        )
        if self.config.teacher != "none":
            self.teacher.ways = begun_ways(pinned, self.config.teacher)

    @property
    def corpus(self) -> Corpus:
        """What the shards were made of."""
        return self.material.corpus

    @property
    def where(self) -> Callable[[int, int], str]:
        """(unit, row) -> its place in the corpus."""
        return self.corpus.where

    def tokenizer_files(self, names: Collection[str]) -> dict[str, str | None]:
        """Write these files, tokenizer/NAME, where they are what they were.

        Returns:
            File -> why it was not written, None where it was.
        """
        pin = self.header.tokenizer
        assert pin is not None
        outcome: dict[str, str | None] = {}
        with tempfile.TemporaryDirectory() as folder:
            save_tokenizer(self.material.tokenizer, folder)
            made = Root(folder)
            for name in names:
                file = name.removeprefix(TOKENIZER)
                try:
                    self.root.write(name, read_pinned(made, file, pin.files[file], most_of(name)))
                    outcome[name] = None
                except CacheError:
                    outcome[name] = f"the tokenizer gives another file now{self._versions()}"
        return outcome

    def basis_and_shards(
        self,
        basis: bool,
        shards: Shards,
        units: Collection[int],
        advance: Callable[[int], object] = lambda count: None,
    ) -> dict[str, str | None]:
        """Make the basis, or take the one that is there, and then these shards.

        Args:
            basis: Whether the basis is to be made again.
            shards: Those of the cache.
            units: Which of them.
            advance: Called with 1 after each shard.

        Returns:
            File -> why it was not written, None where it was.
        """
        of_basis = [self.header.basis.file] if basis and self.header.basis else []
        names = [*of_basis, *(name for unit in units for name in (shards.file(unit), record_name(unit)))]
        with self._threads():
            if other := self._other_settings():
                return dict.fromkeys(names, other)
            outcome: dict[str, str | None] = {}
            for name in of_basis:
                if fault := self._basis():
                    return {**dict.fromkeys(names, f"its basis is lost ({fault})"), name: fault}
                outcome[name] = None
            encoder = self._encoder()
            for unit in units:
                fault = self._shard(shards, unit, encoder)
                outcome |= dict.fromkeys((shards.file(unit), record_name(unit)), fault)
                advance(1)
        return outcome

    @contextlib.contextmanager
    def _threads(self) -> Iterator[None]:
        """As many as the cache was made with."""
        before = torch.get_num_threads()
        torch.set_num_threads(int(self.header.compute.get("threads") or before))
        try:
            yield
        finally:
            torch.set_num_threads(before)

    def _other_settings(self) -> str | None:
        """The first key at which a cache of these settings would differ, but for libraries and hardware, which may give
        the same bytes: the digests tell."""
        with tempfile.TemporaryDirectory() as folder:
            save_tokenizer(self.material.tokenizer, folder)
            pin = pin_tokenizer(folder, self.material.tokenizer)
        threads = int(self.header.compute.get("threads") or torch.get_num_threads())
        made = made_header(self.material, self.teacher, pin, threads)
        found = difference(self._bare(self.header.settings), self._bare(made))
        if found is None:
            return None
        key, there, here = found
        return f"the cache was made with {key} {_short(there)}, and here it is {_short(here)}"

    def _bare(self, header: Header) -> Header:
        compute = {key: value for key, value in header.compute.items() if key != "hardware"}
        return header.model_copy(update={"libraries": {}, "compute": compute})

    def _basis(self) -> str | None:
        """Why it was not written; None where it was."""
        pin, kind, loaded = self.header.basis, calibrated_of(self.header.records), self.teacher.ready()
        assert pin is not None
        assert kind is not None
        assert loaded is not None
        own = self.material.own.reader if self.material.own else None
        basis, _ = calibrate(self.config, kind, self.corpus, self.material.reader, loaded, own)
        data = encode_basis(self.header.settings, basis)
        if hashlib.sha256(data).hexdigest() != pin.sha256:
            return f"made again it is another one{self._versions()}"
        self.root.write(pin.file, data)
        return None

    def _encoder(self) -> Encoder | None:
        kind, pin, teacher = calibrated_of(self.header.records), self.header.basis, self.teacher.ready()
        if kind is None or pin is None:
            return None
        assert teacher is not None
        basis = decode_basis(self.root, self.header, read_basis(self.root, self.header))
        return kind.make_encoder(basis, teacher.output_layer())

    def _shard(self, shards: Shards, unit: int, encoder: Encoder | None) -> str | None:
        """Why a shard and its commit record were not written; None where they were."""
        corpus, before = self.corpus, shards.values(unit)
        if unit >= corpus.num_units or corpus.unit_sha256(unit) != before["source_sha256"]:
            return "its rows of the corpus changed: give them back as they were"
        made = self.material.unit(unit, skip=self.config.on_bad_row == "skip")
        made_under = remedies(self.config, made.notes)
        arrays = unit_arrays(
            self.header,
            unit,
            made.examples,
            self.teacher.ready(),
            encoder,
            advance=lambda tokens: None,
            own=made.own,
        )
        data, again = make_shard(
            self.header,
            unit,
            arrays,
            source_sha256=made.source_sha256,
            notes=made.notes,
            skipped=made.skipped,
            made_under=made_under,
        )
        expected = shards.digest("sha256", unit)
        if (again.sha256, again.digest()) != (expected, shards.digest("record_sha256", unit)):
            if again.made_under != before["made_under"]:
                was, now = _settings(before["made_under"]), _settings(again.made_under)
                return f"it was made with {was}, and here it is {now}"
            return f"made again it has sha256 {again.sha256[:12]}…, expected {expected[:12]}…{self._versions()}"
        commit_shard(self.root, data, again)
        return None

    def _versions(self) -> str:
        """What may be the reason for other bytes."""
        here = {name: installed(name) for name in self.header.libraries}
        differing = [
            f"{name} {number} in the cache, {here[name]} here"
            for name, number in sorted(self.header.libraries.items())
            if here[name] != number
        ]
        if differing:
            return f": {', '.join(differing)}; install the versions of the cache"
        return ": the versions of the libraries are the same, so it is the hardware; repair it where it was made"


def installed(distribution: str) -> str:
    """Its version here."""
    try:
        return version(distribution)
    except PackageNotFoundError:
        return "none"


def _settings(made_under: Mapping[str, str] | None) -> str:
    return ", ".join(f"{key}: {value}" for key, value in (made_under or {}).items()) or "no such row"


def _short(value: Any) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
