"""CacheWriter: make a cache, one atomically committed shard at a time.

Any number of processes may write different units of one cache, with no word between them: a unit is committed once
its shard and then its commit record are in place, and whoever finds every unit committed may finalize. A killed
process leaves at most hidden temporary files, which finalize sweeps away. Same header and same units give the same
bytes, whoever writes and however often it was interrupted.
"""

import contextlib
import hashlib
import os
import re
from collections.abc import Callable, Iterator, Mapping
from concurrent.futures import ThreadPoolExecutor
from importlib.metadata import version
from types import TracebackType
from typing import Any, Literal, Self

import numpy as np
from pydantic import ValidationError

from kdcache import __version__
from kdcache.errors import CacheError
from kdcache.store.cache import read_pinned
from kdcache.store.files import Root
from kdcache.store.manifest import (
    CommitRecord,
    CorpusPin,
    Header,
    Manifest,
    TeacherPin,
    canonical,
    difference,
    first_fault,
    parse,
)
from kdcache.store.schema import causal_lm_fields
from kdcache.store.shard import commit_shard, record_name, shard_name
from kdcache.store.tokenizer_files import pin_tokenizer
from kdcache.store.unit import EXAMPLES_PER_UNIT, Unit, checked_example
from kdcache.targets.spec import RecordSpec

__all__ = ["CacheWriter", "library_versions"]

DEFAULT_RECORD = RecordSpec()
LIBRARIES = {"zarr": ("numcodecs", "zarr"), "arrow": ("pyarrow",)}


class CacheWriter:
    """Write a cache from your own teacher, whatever runs it:

        with kdcache.CacheWriter("my-cache", num_classes=49_152, tokenizer="teacher/") as writer:
            for tokens in examples:
                writer.add(tokens, lambda: teacher(tokens)[:-1])      # logits [P, V] of the next tokens

    Leaving the block without an error finalizes the cache. Run the same program again after a crash and it goes on:
    examples in committed shards are only compared, and their logits, given as a function, are not computed.

    path: folder or fsspec URL. num_classes: columns of the logits. record: what is kept of each row; None for a
    label-only cache (logits None). task: pinned for readers: {"attention": "document"} (the default) where a document
    does not see the others of its example, {"attention": "causal"} where it does. tokenizer: a folder from
    save_pretrained, copied into the cache. teacher: a name, or a TeacherPin with more. seed: of the records' random
    draws. resume: go on with a cache of the same settings; False refuses any existing one.
    Raises CacheError where the folder holds shards of other settings, naming the first that differs.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        num_classes: int,
        record: RecordSpec | None = DEFAULT_RECORD,
        task: Mapping[str, Any] | None = None,
        backend: Literal["zarr", "arrow"] = "zarr",
        tokenizer: str | os.PathLike[str] | None = None,
        teacher: str | TeacherPin | None = None,
        corpus: CorpusPin | None = None,
        seed: int = 0,
        examples_per_shard: int = 1024,
        resume: bool = True,
    ) -> None:
        settings = {"name": "causal_lm", "attention": "document"} | dict(task or {})
        if settings["name"] != "causal_lm" or settings["attention"] not in ("document", "causal"):
            raise CacheError(f"got task {settings}, expected name causal_lm, and attention document or causal")
        pin = None if tokenizer is None else pin_tokenizer(tokenizer)
        try:
            header = Header(
                backend=backend,
                task=settings,
                record=record,
                num_classes=num_classes,
                fields=causal_lm_fields(pin.vocab_size if pin else num_classes, num_classes, record),
                tokenizer=pin,
                teacher=TeacherPin(name=teacher) if isinstance(teacher, str) else teacher,
                corpus=corpus,
                compute={"examples_per_shard": examples_per_shard},
                seed=seed,
                libraries=library_versions(backend, teacher=record is not None),
            )
        except ValidationError as error:
            raise CacheError(f"this cache cannot be written: {first_fault(error)}") from None
        self._begin(path, header, tokenizer, examples_per_shard, resume)

    @classmethod
    def from_header(
        cls,
        path: str | os.PathLike[str],
        header: Header,
        tokenizer_folder: str | os.PathLike[str] | None = None,
        *,
        examples_per_shard: int = 1024,
        resume: bool = True,
    ) -> Self:
        """A writer for a header made elsewhere; tokenizer_folder holds the files that header.tokenizer names."""
        writer = cls.__new__(cls)
        writer._begin(path, header, tokenizer_folder, examples_per_shard, resume)
        return writer

    def _begin(
        self,
        path: str | os.PathLike[str],
        header: Header,
        tokenizer_folder: str | os.PathLike[str] | None,
        examples_per_shard: int,
        resume: bool,
    ) -> None:
        if not 0 < examples_per_shard <= EXAMPLES_PER_UNIT:
            raise CacheError(f"got examples_per_shard {examples_per_shard}, expected 1 to {EXAMPLES_PER_UNIT}")
        self.root = Root(path)
        self.header = header
        self._header_sha256 = header.digest()
        self._examples_per_shard = examples_per_shard
        self._unit: Unit | None = None
        self._examples = 0
        try:
            begun = parse(Header, self.root.read("header.json"), f"{self.root.url}/header.json")
        except FileNotFoundError:
            if self.root.exists("cache.json"):
                raise CacheError(
                    f"{self.root.url} holds a cache without its header.json, expected a new folder"
                ) from None
            self._pin(tokenizer_folder)
            return
        if not resume:
            raise CacheError(f"{self.root.url} already holds a cache, expected a new folder, or resume=True to go on")
        if found := difference(begun, header):
            if not self.root.list("shards"):  # nothing is lost by beginning anew
                self._pin(tokenizer_folder)
                return
            key, there, here = found
            raise CacheError(
                f"{self.root.url} was begun with {key} {_short(there)}, got {_short(here)}: "
                "use the same settings to go on, or another output folder"
            )

    def _pin(self, tokenizer_folder: str | os.PathLike[str] | None) -> None:
        """The header goes last: where it is, the tokenizer is."""
        if self.header.tokenizer is not None:
            if tokenizer_folder is None:
                raise CacheError(
                    "got a header with a tokenizer and no tokenizer_folder, expected the folder of its files"
                )
            source = Root(tokenizer_folder)
            for name, sha256 in self.header.tokenizer.files.items():
                self.root.write(f"tokenizer/{name}", read_pinned(source, name, sha256))
        self.root.write("header.json", canonical(self.header))

    # One unit at a time, by number

    @contextlib.contextmanager
    def unit(self, index: int, source_sha256: str = "") -> Iterator[Unit]:
        """Fill a unit and commit it on leaving the block; after an error nothing is written.

        source_sha256: digest of what the unit was made from, kept in its commit record.
        """
        unit = Unit(self.header, index)
        yield unit
        self.commit(index, unit.arrays(), source_sha256=source_sha256, notes=unit.notes)

    def commit(
        self,
        index: int,
        arrays: Mapping[str, np.ndarray],
        *,
        source_sha256: str = "",
        notes: Mapping[str, int] | None = None,
    ) -> CommitRecord:
        """Write the arrays of a unit, {field.name: flat array} and counts, and then its commit record."""
        return commit_shard(self.root, self.header, index, arrays, source_sha256=source_sha256, notes=notes)

    def committed(self) -> set[int]:
        """Units with a valid commit record."""
        return {commit.unit for commit in self.commits()}

    def finalize(self, num_units: int) -> Manifest:
        """Write cache.json for units 0 to num_units - 1: the same bytes, whoever calls this and however often.

        Raises CacheError while a unit is missing, or where there is one too many.
        """
        commits = {commit.unit: commit for commit in self.commits()}
        missing = [unit for unit in range(num_units) if unit not in commits]
        if missing:
            raise CacheError(
                f"{self.root.url} is not finished: {len(missing)} of {num_units} units are missing, "
                f"the first is {missing[0]}; run the same command again to go on"
            )
        if len(commits) > num_units:
            raise CacheError(
                f"{self.root.url} holds unit {max(commits)}, expected {num_units} units: "
                "an earlier run wrote more; use another output folder"
            )
        manifest = Manifest.of(self.header, tuple(commits[unit] for unit in range(num_units)))
        self.root.write("cache.json", canonical(manifest))
        for sub in ("", "shards", "tokenizer"):
            self.root.sweep(sub)
        return manifest

    def commits(self) -> list[CommitRecord]:
        """The valid commit records, in order of units: of this header, with a shard of that size in place."""
        sizes = self.root.sizes("shards")
        names = [name for name in sizes if re.fullmatch(r"\d{6,}\.json", name)]
        with ThreadPoolExecutor(16) as pool:
            records = [*pool.map(self._commit_record, names)]
        return [
            record
            for name, record in zip(names, records, strict=True)
            if record is not None
            and record_name(record.unit) == f"shards/{name}"
            and record.file == shard_name(self.header, record.unit)
            and record.header_sha256 == self._header_sha256
            and sizes.get(record.file.removeprefix("shards/")) == record.bytes
        ]

    def _commit_record(self, name: str) -> CommitRecord | None:
        try:
            return parse(CommitRecord, self.root.read(f"shards/{name}"), name)
        except (CacheError, FileNotFoundError):
            return None

    # Examples one after the other

    def add(
        self,
        tokens: Any,
        logits: Any | Callable[[], Any] | None = None,
        *,
        positions: Any | None = None,
        labels: Any | None = None,
        documents: Any | None = None,
    ) -> None:
        """The next example; every examples_per_shard of them are one shard.

        tokens: integers [L]. logits: the teacher's raw logits [P, V], a torch tensor or numpy array, or a function
        that returns them, called only if the example's shard is not committed yet. positions: where they are, by
        default every token but the last (so P = L - 1). labels: checked against the next tokens. documents: token
        counts of the documents packed into the example, by default one.
        Raises CacheError for what cannot be stored, TeacherError for logits that are not finite.
        """
        if self._unit is None:
            self._start_unit(self._examples // self._examples_per_shard)
        assert self._unit is not None
        example = checked_example(self.header, tokens, positions=positions, labels=labels, documents=documents)
        for name in ("tokens", "positions", "document_lengths"):
            self._source.update(len(example[name]).to_bytes(8, "little") + example[name].astype("<i8").tobytes())
        if self._done is None:
            self._unit.add(
                example["tokens"],
                logits() if callable(logits) else logits,
                positions=example["positions"],
                documents=example["document_lengths"],
            )
        self._examples += 1
        if self._examples % self._examples_per_shard == 0:
            self._end_unit()

    def close(self) -> Manifest | None:
        """Commit the last examples given to `add` and finalize; nothing where `add` was not used."""
        if self._examples == 0:
            return None
        if self._unit is not None:
            self._end_unit()
        return self.finalize(-(-self._examples // self._examples_per_shard))

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()

    def _start_unit(self, index: int) -> None:
        if index == 0:
            self._known = {commit.unit: commit for commit in self.commits()}
        self._unit = Unit(self.header, index)
        self._done = self._known.get(index)
        self._source = hashlib.sha256()

    def _end_unit(self) -> None:
        assert self._unit is not None
        index, source = self._unit.index, self._source.hexdigest()
        if self._done is None:
            self.commit(index, self._unit.arrays(), source_sha256=source)
        elif self._done.source_sha256 != source:
            raise CacheError(
                f"{self.root.url}/{self._done.file} was made of other examples, expected the same in the same order: "
                "use another output folder"
            )
        self._unit = None


def library_versions(backend: str, *, teacher: bool = False) -> dict[str, str]:
    """Versions of what the bytes of a shard depend on."""
    names = ("numpy", *LIBRARIES.get(backend, ()), *(("torch",) if teacher else ()))
    return {"kdcache": __version__} | {name: version(name) for name in names}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
