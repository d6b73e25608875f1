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
from collections.abc import Callable, Collection, Iterator, Mapping, Sequence
from concurrent.futures import ThreadPoolExecutor
from functools import partial
from importlib.metadata import version
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

import numpy as np
from pydantic import ValidationError

from kdcache import __version__
from kdcache.errors import CacheError
from kdcache.store.backend import backend_versions
from kdcache.store.basis_file import decode_basis, forget_other_bases, write_basis
from kdcache.store.cache import begun_header, read_pinned
from kdcache.store.files import Root
from kdcache.store.manifest import (
    BasisPin,
    CalibrationPin,
    CommitRecord,
    CorpusPin,
    Header,
    Manifest,
    SkippedRow,
    TeacherPin,
    canonical,
    difference,
    first_fault,
    parse,
)
from kdcache.store.schema import check_task, task_fields
from kdcache.store.shard import commit_shard, record_name, shard_name
from kdcache.store.skipped import write_skipped
from kdcache.store.tokenizer_files import pin_tokenizer
from kdcache.store.unit import EXAMPLES_PER_UNIT, Unit, checked_example
from kdcache.targets.spec import RecordSpec

if TYPE_CHECKING:
    from kdcache.targets.basis import Basis
    from kdcache.targets.calibration import Encoder
    from kdcache.targets.output_layer import OutputLayer

    MakeBasis = Callable[[], tuple[Basis, CalibrationPin | None]]

__all__ = ["CacheWriter", "library_versions"]

DEFAULT_RECORD = RecordSpec()


class CacheWriter:
    """Write a cache from your own teacher, whatever runs it:

        with kdcache.CacheWriter("my-cache", num_classes=49_152, tokenizer="teacher/") as writer:
            for tokens in examples:
                writer.add(tokens, lambda: teacher(tokens)[:-1])      # logits [P, V] of the next tokens

    or, for records with a factor, whose logits are those of an output layer (weight [V, D], bias or None):

        record = kdcache.RecordSpec(samples=0, factor={"rank": 128})
        with kdcache.CacheWriter("my-cache", num_classes=49_152, record=record, output_layer=(weight, bias),
                                 calibration=lambda: hidden_of_the_first(5000)) as writer:
            for tokens in examples:
                writer.add(tokens, hidden=lambda: teacher.body(tokens)[:-1])      # [P, D], logits follow

    Leaving the block without an error finalizes the cache. Run the same program again after a crash and it goes on:
    examples in committed shards are only compared, and their logits, given as a function, are not computed.

    path: folder or fsspec URL. num_classes: columns of the logits. record: what is kept of each row; None for a
    label-only cache (logits None); by default a sample for a language model, every class for a classification.
    task: pinned for readers: {"attention": "document"} (the default) where a document does not see the others of its
    example, {"attention": "causal"} where it does; or {"name": "sequence_classification"}, {"name":
    "token_classification"}, with labels, the names of the classes. features: width of the teacher's features, where
    the record has some. tokenizer: a folder from
    save_pretrained, copied into the cache. teacher: a name, or a TeacherPin with more. seed: of the records' random
    draws. resume: go on with a cache of the same settings; False refuses any existing one. output_layer: with a factor,
    a pair (weight, bias), or an OutputLayer of kdcache.targets.output_layer where there is a soft-cap or a scale.
    calibration: with a factor, hidden states [N, D] of typical text, N about 8 D, or a function that gives them; not
    asked for where the cache is begun already.
    Raises CacheError where the folder holds shards of other settings, naming the first that differs, ConfigError for an
    unknown backend.
    """

    begun_anew: str | None = None
    _encoder: "Encoder | None" = None
    _corpus: CorpusPin | None = None

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        num_classes: int,
        record: RecordSpec | None = DEFAULT_RECORD,
        task: Mapping[str, Any] | None = None,
        backend: str = "zarr",
        tokenizer: str | os.PathLike[str] | None = None,
        teacher: str | TeacherPin | None = None,
        corpus: CorpusPin | None = None,
        seed: int = 0,
        examples_per_shard: int = 1024,
        resume: bool = True,
        output_layer: "OutputLayer | tuple[Any, Any] | None" = None,
        calibration: Any | Callable[[], Any] | None = None,
        labels: Sequence[str] | None = None,
        features: int | None = None,
    ) -> None:
        made = check_task(task or {})
        if record is DEFAULT_RECORD:
            record = RecordSpec(**made.record_defaults)
        if (record is not None and record.features is not None) != (features is not None):
            raise CacheError(f"got features {features} for this record, expected their width just where it has some")
        if labels is not None and len(labels) != num_classes:
            raise CacheError(f"got {len(labels)} labels, expected {num_classes}, a name for each class")
        pin = None if tokenizer is None else pin_tokenizer(tokenizer)
        try:
            header = Header(
                backend=backend,
                task={"name": made.name, "attention": made.attention, **(task or {})},
                record=record,
                num_classes=num_classes,
                fields=task_fields(
                    made,
                    pin.vocab_size if pin else num_classes if made.generates else 1 << 24,
                    num_classes,
                    record,
                    features=features,
                    types=not made.generates,
                ),
                id2label=None if labels is None else dict(enumerate(labels)),
                tokenizer=pin,
                teacher=TeacherPin(name=teacher) if isinstance(teacher, str) else teacher,
                compute={"examples_per_shard": examples_per_shard},
                seed=seed,
                libraries=library_versions(backend, teacher=record is not None),
            )
        except ValidationError as error:
            raise CacheError(f"this cache cannot be written: {first_fault(error)}") from None
        make_basis = None
        if (record is not None and record.factor is not None) != (output_layer is not None):
            got, expected = ("no output_layer", "one") if output_layer is None else ("an output_layer", "none")
            raise CacheError(f"got {got} for this record, expected {expected}: it goes with record.factor")
        if output_layer is not None:
            assert record is not None
            layer = _layer(output_layer, num_classes)
            make_basis = partial(_calibrated, layer, calibration, record, num_classes)
        self._corpus = corpus
        self._begin(path, header, tokenizer, examples_per_shard, resume, make_basis)
        if output_layer is not None:
            from kdcache.targets.calibration import Encoder

            assert self.basis is not None
            self._encoder = Encoder(self.basis, layer)

    @classmethod
    def from_header(
        cls,
        path: str | os.PathLike[str],
        header: Header,
        tokenizer_folder: str | os.PathLike[str] | None = None,
        *,
        examples_per_shard: int = 1024,
        resume: bool = True,
        make_basis: "MakeBasis | None" = None,
        basis_fault: Callable[[BasisPin], str | None] = lambda pin: None,
        from_corpus: Collection[str] = (),
    ) -> Self:
        """A writer for a header made elsewhere; tokenizer_folder holds the files that header.tokenizer names.

        make_basis: gives the basis of a record with a factor, and what it was made of, where the cache is not begun.
        header and basis of the writer are then those that the cache was begun with. basis_fault: why that basis is not
        the one that would be made now. from_corpus: keys of the header that are made of the corpus; where a cache was
        begun with others of these alone, it begins anew, `begun_anew` names the first, and no old shard counts.
        """
        writer = cls.__new__(cls)
        writer._begin(path, header, tokenizer_folder, examples_per_shard, resume, make_basis, basis_fault, from_corpus)
        return writer

    def _begin(
        self,
        path: str | os.PathLike[str],
        header: Header,
        tokenizer_folder: str | os.PathLike[str] | None,
        examples_per_shard: int,
        resume: bool,
        make_basis: "MakeBasis | None",
        basis_fault: Callable[[BasisPin], str | None] = lambda pin: None,
        from_corpus: Collection[str] = (),
    ) -> None:
        if not 0 < examples_per_shard <= EXAMPLES_PER_UNIT:
            raise CacheError(f"got examples_per_shard {examples_per_shard}, expected 1 to {EXAMPLES_PER_UNIT}")
        self.root = Root(path)
        self.header = header
        self.basis: Basis | None = None
        self._examples_per_shard = examples_per_shard
        self._unit: Unit | None = None
        self._examples = 0
        begun = begun_header(self.root)
        if begun is None and self.root.exists("cache.json"):
            raise CacheError(f"{self.root.url} holds a cache without its header.json, expected a new folder")
        if begun is not None and not resume:
            raise CacheError(f"{self.root.url} already holds a cache, expected a new folder, or resume=True to go on")
        fault = begun.basis and basis_fault(begun.basis) if begun else None
        if begun is not None and self.root.list("shards"):
            self.begun_anew = _other_corpus(begun.settings, header, from_corpus)
            if fault and not difference(begun.settings, header):
                raise CacheError(f"{self.root.url} was begun with another basis: {fault}; use another output folder")
            anew = self.begun_anew is not None
        else:  # nothing is lost by beginning anew
            anew = begun is None or fault is not None or difference(begun.settings, header) is not None
        if anew:
            self.root.delete("cache.json")
            self._pin(tokenizer_folder, make_basis, first=begun is None)
        else:
            assert begun is not None
            self._go_on(begun)
        self._header_sha256 = self.header.digest()

    def _go_on(self, begun: Header) -> None:
        """With a cache of the same settings: its basis, and so its header, are what it was begun with."""
        if found := difference(begun.settings, self.header):
            key, there, here = found
            raise CacheError(
                f"{self.root.url} was begun with {key} {_short(there)}, got {_short(here)}: "
                "use the same settings to go on, or another output folder"
            )
        self.header = begun
        if begun.basis is not None:
            data = read_pinned(self.root, begun.basis.file, begun.basis.sha256)
            self.basis = decode_basis(self.root, begun, data)

    def _pin(
        self, tokenizer_folder: str | os.PathLike[str] | None, make_basis: "MakeBasis | None", *, first: bool
    ) -> None:
        """The header goes last: where it is, the tokenizer and the basis are. Of several writers the first one's."""
        if self.header.tokenizer is not None:
            if tokenizer_folder is None:
                raise CacheError(
                    "got a header with a tokenizer and no tokenizer_folder, expected the folder of its files"
                )
            source = Root(tokenizer_folder)
            for name, sha256 in self.header.tokenizer.files.items():
                self.root.write(f"tokenizer/{name}", read_pinned(source, name, sha256))
        if self.header.record is None or self.header.record.factor is None:
            self.root.write("header.json", canonical(self.header))
            return
        if make_basis is None:
            raise CacheError("got a header with a factor and no make_basis, expected the function that makes its basis")
        settings = self.header
        self.header = write_basis(self.root, settings, *make_basis())
        if first:
            self.root.create("header.json", canonical(self.header))
        else:
            self.root.write("header.json", canonical(self.header))
        begun = begun_header(self.root)
        assert begun is not None
        self.header = settings
        self._go_on(begun)
        forget_other_bases(self.root, begun)

    # One unit at a time, by number

    @contextlib.contextmanager
    def unit(self, index: int, source_sha256: str = "") -> Iterator[Unit]:
        """Fill a unit and commit it on leaving the block; after an error nothing is written.

        source_sha256: digest of what the unit was made from, kept in its commit record.
        """
        unit = Unit(self.header, index, self._encoder)
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
    ) -> CommitRecord:
        """Write the arrays of a unit, {field.name: flat array} and counts, and then its commit record."""
        return commit_shard(
            self.root,
            self.header,
            index,
            arrays,
            source_sha256=source_sha256,
            notes=notes,
            skipped=skipped,
            made_under=made_under,
        )

    def committed(self) -> set[int]:
        """Units with a valid commit record."""
        return {commit.unit for commit in self.commits()}

    def forget_beyond(self, num_units: int) -> None:
        """Delete the shards of later units and their records, of whatever header."""
        names = [name for name in self.root.list("shards") if re.match(r"\d{6,}\.", name)]
        beyond = [f"shards/{name}" for name in names if int(name.partition(".")[0]) >= num_units]
        self.root.delete(sorted(beyond, key=lambda name: not name.endswith(".json")))

    def finalize(
        self,
        num_units: int,
        *,
        corpus: CorpusPin | None = None,
        where: Callable[[int, int], str] = lambda unit, row: f"unit {unit}, row {row + 1}",
    ) -> Manifest:
        """Write cache.json for units 0 to num_units - 1: the same bytes, whoever calls this and however often.

        corpus: what the shards were made of. where: (unit, row) -> the place of a row that was left out.
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
        manifest = Manifest.of(self.header, tuple(commits[unit] for unit in range(num_units)), corpus)
        write_skipped(self.root, manifest.shards, where)
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
        hidden: Any | Callable[[], Any] | None = None,
        positions: Any | None = None,
        labels: Any | None = None,
        documents: Any | None = None,
        types: Any | None = None,
        features: Any | Callable[[], Any] | None = None,
    ) -> None:
        """The next example; every examples_per_shard of them are one shard.

        tokens: integers [L]. logits: the teacher's raw logits [P, V], a torch tensor or numpy array, or a function
        that returns them, called only if the example's shard is not committed yet. hidden: for records with a factor,
        the hidden states [P, D] that the output layer makes the logits of, or a function; logits may be left out then,
        and are otherwise compared with these once a shard. positions: where they are, by
        default every token but the last (so P = L - 1), the first of a sequence classification. labels: class ids, −100
        where there is none; of a causal LM checked against the next tokens. documents: token counts of the documents
        packed into the example, by default one. types: the token types [L] of a classification, what its tokenizer
        gives as token_type_ids; by default 0, and in the documents after the first 1, 2, …. features: [P, H], or a
        function.
        Raises CacheError for what cannot be stored, TeacherError for logits that are not finite.
        """
        if self._unit is None:
            self._start_unit(self._examples // self._examples_per_shard)
        assert self._unit is not None
        example = checked_example(
            self.header, tokens, positions=positions, labels=labels, documents=documents, types=types
        )
        stored = {field.name for field in self.header.fields}
        optional = [name for name in ("labels", "token_types") if name in stored]
        for name in ("tokens", "positions", "document_lengths", *optional):
            self._source.update(len(example[name]).to_bytes(8, "little") + example[name].astype("<i8").tobytes())
        if self._done is None:
            self._unit.add(
                example["tokens"],
                logits() if callable(logits) else logits,
                hidden=hidden() if callable(hidden) else hidden,
                positions=example["positions"],
                labels=example["labels"],
                documents=example["document_lengths"],
                types=example["token_types"],
                features=features() if callable(features) else features,
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
        return self.finalize(-(-self._examples // self._examples_per_shard), corpus=self._corpus)

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
        self._unit = Unit(self.header, index, self._encoder)
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


def _layer(given: "OutputLayer | tuple[Any, Any]", num_classes: int) -> "OutputLayer":
    import torch

    from kdcache.targets.output_layer import OutputLayer

    layer = given
    if isinstance(layer, tuple):
        weight, bias = layer
        layer = OutputLayer(torch.as_tensor(weight), None if bias is None else torch.as_tensor(bias))
    if len(layer.weight_VD) < num_classes:
        raise CacheError(f"got an output layer of {len(layer.weight_VD)} classes, expected num_classes {num_classes}")
    return layer


def _other_corpus(begun: Header, header: Header, keys: Collection[str]) -> str | None:
    """The first key at which these headers differ, if they differ in those keys alone."""
    found = difference(begun, header)
    same = begun.model_copy(update={key: getattr(header, key) for key in keys})
    return found[0] if found and difference(same, header) is None else None


def _calibrated(
    layer: "OutputLayer", calibration: Any, record: RecordSpec, num_classes: int
) -> "tuple[Basis, CalibrationPin | None]":
    import torch

    from kdcache.targets.calibration import make_basis

    assert record.factor is not None
    if calibration is None:
        raise CacheError("got no calibration for a record with a factor, expected hidden states of typical text")
    hidden = calibration() if callable(calibration) else calibration
    return make_basis(layer, torch.as_tensor(hidden), record.factor.rank, num_classes), None


def library_versions(backend: str, *, teacher: bool = False) -> dict[str, str]:
    """Versions of what the bytes of a shard depend on. Raises ConfigError for an unknown backend."""
    names = ("numpy", *(("numba", "torch") if teacher else ()))
    return {"kdcache": __version__, **backend_versions(backend), **{name: version(name) for name in names}}


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
