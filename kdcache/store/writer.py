"""CacheWriter: make a cache of examples given one after the other, on top of a CacheBuilder."""

import hashlib
import os
from collections.abc import Callable, Mapping, Sequence
from functools import partial
from types import TracebackType
from typing import TYPE_CHECKING, Any, Self

from pydantic import ValidationError

from kdcache.errors import CacheError, ConfigError
from kdcache.store.builder import CacheBuilder, library_versions
from kdcache.store.checked import checked_example
from kdcache.store.manifest import CalibrationPin, CorpusPin, Header, Manifest, TeacherPin, first_fault
from kdcache.store.output import CacheOutput
from kdcache.store.places import shard_name
from kdcache.store.schema import check_task, task_fields
from kdcache.store.tokenizer_files import pin_tokenizer
from kdcache.store.unit import EXAMPLES_PER_UNIT, Unit
from kdcache.targets.kind import RecordKind
from kdcache.targets.records import calibrated_of, features_at, record_kinds

if TYPE_CHECKING:
    from kdcache.store.blocks import BlockExamples
    from kdcache.targets.basis import Basis
    from kdcache.targets.calibration import Encoder
    from kdcache.targets.output_layer import OutputLayer
    from kdcache.tasks.example import Example

    Records = RecordKind | Mapping[str, Any] | Sequence[RecordKind | Mapping[str, Any]] | None

__all__ = ["CacheWriter"]

OF_THE_TASK: Mapping[str, Any] = {"kind": "of the task"}
"""Stands for the record that a task has by default."""


class CacheWriter:
    """Write a cache from your own teacher, whatever runs it:

        with kdcache.CacheWriter("my-cache", num_classes=49_152, tokenizer="teacher/") as writer:
            for tokens in examples:
                writer.add(tokens, lambda: teacher(tokens)[:-1])      # logits [P, V] of the next tokens

    or, for factored records, whose logits are those of an output layer (weight [V, D], bias or None):

        record = {"kind": "factored", "rank": 128}
        with kdcache.CacheWriter("my-cache", num_classes=49_152, record=record, output_layer=(weight, bias),
                                 calibration=lambda: hidden_of_the_first(5000)) as writer:
            for tokens in examples:
                writer.add(tokens, hidden=lambda: teacher.body(tokens)[:-1])      # [P, D], logits follow

    Leaving the block without an error finalizes the cache. Run the same program again after a crash and it goes on:
    examples in committed shards are only compared, and their logits, given as a function, are not computed.

    Args:
        path: Folder or fsspec URL.
        num_classes: Columns of the logits.
        record: What is kept of each row, as in a settings file: {"kind": "sampled", …}, or a list of several
            kinds; None for a label-only cache (logits None). By default a sample for a language model, every class
            for a classification.
        task: Pinned for readers: {"attention": "document"} (the default) where a document does not see the others
            of its example, {"attention": "causal"} where it does; or {"name": "sequence_classification"}, {"name":
            "token_classification"}, with labels.
        backend: How shards are written, a registered name.
        tokenizer: A folder from save_pretrained, copied into the cache.
        teacher: A name, or a TeacherPin with more.
        corpus: What the examples are made of.
        seed: Of the records' random draws.
        examples_per_shard: How many examples a shard has.
        block_examples: How many of them are read at once, or "auto": as many as decode to about 2 MB, at most 4,096.
        resume: Go on with a cache of the same settings; False refuses any existing one.
        force: Write into a folder that is not ours, or in which somebody writes another cache.
        output_layer: Of factored records, a pair (weight, bias), or an OutputLayer of kdcache.targets.output_layer
            where there is a soft-cap or a scale.
        calibration: Of factored records, hidden states [N, D] of typical text, N about 8 D, or a function that
            gives them; not asked for where the cache is begun already.
        labels: The names of the classes of a classification.
        features: Width of the teacher's features, where a record keeps them.

    Raises:
        CacheError: Where the folder holds shards of other settings, naming the first that differs, or where the
            settings do not fit together.
        ConfigError: For an unknown backend, and for a folder that kdcache did not make.
        LockedError: Where another process writes a cache of other settings there.
    """

    def __init__(
        self,
        path: str | os.PathLike[str],
        *,
        num_classes: int,
        record: "Records" = OF_THE_TASK,
        task: Mapping[str, Any] | None = None,
        backend: str = "zarr",
        tokenizer: str | os.PathLike[str] | None = None,
        teacher: str | TeacherPin | None = None,
        corpus: CorpusPin | None = None,
        seed: int = 0,
        examples_per_shard: int = 1024,
        block_examples: "BlockExamples" = "auto",
        resume: bool = True,
        force: bool = False,
        output_layer: "OutputLayer | tuple[Any, Any] | None" = None,
        calibration: Any | Callable[[], Any] | None = None,
        labels: Sequence[str] | None = None,
        features: int | None = None,
    ) -> None:
        """Begin the cache, or go on with one of the same settings. The arguments: see the class."""
        made = check_task(task or {})
        records = _records(made.record_defaults if record is OF_THE_TASK else record)
        _check_fit(records, num_classes, labels, features, output_layer, examples_per_shard)
        pin = None if tokenizer is None else pin_tokenizer(tokenizer)
        try:
            header = Header(
                backend=backend,
                task={"name": made.name, "attention": made.attention, **(task or {})},
                records=records,
                num_classes=num_classes,
                fields=task_fields(
                    made,
                    pin.vocab_size if pin else num_classes if made.generates else 1 << 24,
                    num_classes,
                    records,
                    features=features,
                    types=not made.generates,
                ),
                block_examples=block_examples,
                id2label=None if labels is None else dict(enumerate(labels)),
                tokenizer=pin,
                teacher=TeacherPin(name=teacher) if isinstance(teacher, str) else teacher,
                compute={"examples_per_shard": examples_per_shard},
                seed=seed,
                libraries=library_versions(backend, teacher=bool(records)),
            )
        except ValidationError as error:
            raise CacheError(f"this cache cannot be written: {first_fault(error)}") from None
        kind, layer, make_basis = calibrated_of(records), None, None
        if kind is not None and output_layer is not None:
            layer = _layer(output_layer, num_classes)
            make_basis = partial(_calibrated, layer, calibration, kind, num_classes)
        self._examples_per_shard, self._corpus = examples_per_shard, corpus
        self._examples = 0
        self._unit: Unit | None = None
        output = CacheOutput(path, force=force)
        self.builder = CacheBuilder(output, header, tokenizer, resume=resume, make_basis=make_basis)
        self._encoder: Encoder | None = None
        if kind is not None and layer is not None:
            assert self.builder.basis is not None
            self._encoder = kind.make_encoder(self.builder.basis, layer)

    @property
    def header(self) -> Header:
        """What the cache was begun with."""
        return self.builder.header

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

        Args:
            tokens: integers [L].
            logits: the teacher's raw logits [P, V], a torch tensor or numpy array, or a function that returns them,
                called only if the example's shard is not committed yet.
            hidden: of factored records, the hidden states [P, D] that the output layer makes the logits of, or a
                function; logits may be left out then, and are otherwise compared with these once a shard.
            positions: where the rows of logits are, by default every token but the last (so P = L - 1), the first of a
                sequence classification.
            labels: class ids, −100 where there is none; of a causal LM checked against the next tokens.
            documents: token counts of the documents packed into the example, by default one.
            types: the token types [L] of a classification, what its tokenizer gives as token_type_ids; by default 0,
                and in the documents after the first 1, 2, ….
            features: of a record of features, [P, H], or a function.

        Raises:
            CacheError: for what cannot be stored.
            TeacherError: for logits that are not finite.
        """
        if self._unit is None:
            self._start_unit(self._examples // self._examples_per_shard)
        assert self._unit is not None
        example = checked_example(
            self.header, tokens, positions=positions, labels=labels, documents=documents, types=types
        )
        self._source.update(self._identity(example))
        if self._done is None:
            self._unit.add(
                example,
                logits() if callable(logits) else logits,
                hidden=hidden() if callable(hidden) else hidden,
                features=features() if callable(features) else features,
            )
        self._examples += 1
        if self._examples % self._examples_per_shard == 0:
            self._end_unit()

    def close(self) -> Manifest | None:
        """Commit the last examples given to `add` and finalize; nothing where `add` was not used."""
        with self.builder:
            if self._examples == 0:
                return None
            if self._unit is not None:
                self._end_unit()
            return self.builder.finalize(-(-self._examples // self._examples_per_shard), corpus=self._corpus)

    def __enter__(self) -> Self:
        return self

    def __exit__(
        self, kind: type[BaseException] | None, error: BaseException | None, trace: TracebackType | None
    ) -> None:
        if kind is None:
            self.close()
        else:
            self.builder.release()

    def _identity(self, example: "Example") -> bytes:
        """What a resumed program has to give again: the arrays of an example that are stored."""
        stored = {field.name for field in self.header.fields}
        parts = [example.tokens, example.positions, example.documents]
        parts += [example.labels] if "labels" in stored else []
        parts += [example.types] if "token_types" in stored and example.types is not None else []
        whole = [part.astype("<i8" if part.dtype.kind in "iu" else "<f8") for part in parts]
        return b"".join(len(part).to_bytes(8, "little") + part.tobytes() for part in whole)

    def _start_unit(self, index: int) -> None:
        if index == 0:
            self._known = {commit.unit: commit for commit in self.builder.commits()}
        self._unit = Unit(self.header, index, self._encoder)
        self._done = self._known.get(index)
        self._source = hashlib.sha256()

    def _end_unit(self) -> None:
        assert self._unit is not None
        index, source = self._unit.index, self._source.hexdigest()
        if self._done is None:
            self.builder.commit(index, self._unit.arrays(), source_sha256=source)
        elif self._done.source_sha256 != source:
            raise CacheError(
                f"{self.builder.root.url}/{shard_name(self.header, index)} was made of other examples, expected the "
                "same in the same order: use another output folder"
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


def _calibrated(
    layer: "OutputLayer", calibration: Any, kind: RecordKind, num_classes: int
) -> "tuple[Basis, CalibrationPin | None]":
    import torch

    if calibration is None:
        raise CacheError("got no calibration for a factored record, expected hidden states of typical text")
    hidden = calibration() if callable(calibration) else calibration
    return kind.make_basis(layer, torch.as_tensor(hidden), num_classes), None


def _check_fit(
    records: Sequence[RecordKind],
    num_classes: int,
    labels: Sequence[str] | None,
    features: int | None,
    layer: Any,
    examples_per_shard: int,
) -> None:
    """Raises CacheError for arguments that do not go with the records or with each other."""
    if not 0 < examples_per_shard <= EXAMPLES_PER_UNIT:
        raise CacheError(f"got examples_per_shard {examples_per_shard}, expected 1 to {EXAMPLES_PER_UNIT}")
    if (features_at(records) is not None) != (features is not None):
        raise CacheError(f"got features {features} for this record, expected their width just where it has some")
    if labels is not None and len(labels) != num_classes:
        raise CacheError(f"got {len(labels)} labels, expected {num_classes}, a name for each class")
    if (calibrated_of(records) is not None) != (layer is not None):
        got, expected = ("no output_layer", "one") if layer is None else ("an output_layer", "none")
        raise CacheError(f"got {got} for this record, expected {expected}: it goes with a factored record")


def _records(given: "Records") -> tuple[RecordKind, ...]:
    try:
        return record_kinds(given)
    except ConfigError as error:
        raise CacheError(f"this cache cannot be written: {error}") from None
