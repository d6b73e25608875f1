"""import_capture: a capture of another tool becomes a cache, unit by unit, through the builder's own commits.

Killed and run again it goes on with the first unit that is not committed, after comparing the source of those that
are; the bytes are the same whatever happened. One unit of the input is in memory at a time.

What a captured record cannot say stands in the header, in `compute.import`.
"""

from collections import Counter
from collections.abc import Iterator, Sequence
from dataclasses import replace
from pathlib import Path
from typing import Any

import numpy as np
from pydantic import ValidationError

from kdcache.errors import CacheError, ConfigError, CorpusError
from kdcache.imports.alignment import check_alignment
from kdcache.imports.capture import Capture, Captured
from kdcache.imports.options import ImportOptions
from kdcache.imports.registry import FORMATS
from kdcache.imports.rows import Rules, record_arrays
from kdcache.progress import Progress, say
from kdcache.store.builder import CacheBuilder, library_versions
from kdcache.store.checked import checked_example
from kdcache.store.manifest import CorpusPin, Header, Manifest, TeacherPin, first_fault
from kdcache.store.output import CacheOutput
from kdcache.store.schema import task_fields
from kdcache.store.tokenizer_files import pin_tokenizer
from kdcache.store.unit import Unit
from kdcache.targets.captured import Captured as CapturedRecord
from kdcache.targets.curve_spec import CurveSpec
from kdcache.targets.kind import RecordKind
from kdcache.targets.records import record_kinds
from kdcache.targets.sampled import Sampled
from kdcache.tasks.registry import DEFAULT, task_of

__all__ = ["import_capture"]

TEMPERATURES = (0.5, 1.0, 2.0, 4.0)
"""Of which the header says whether they are answered."""
LOOKED_AT = 2000
"""Positions at the beginning that are looked at before anything is written."""
RENORMALISED = 1e-3


def import_capture(
    format: str,
    paths: Sequence[str],
    output: str,
    options: ImportOptions,
    *,
    teacher: str | None = None,
    backend: str = "zarr",
    force: bool = False,
) -> Manifest:
    """Make a cache of a capture, or go on with one.

    Args:
        format: A registered name.
        paths: The capture's files.
        output: Folder or URL of the cache.
        options: What the capture does not say itself.
        teacher: The teacher's name, for the header.
        backend: How shards are written, a registered name.
        force: Write into a folder that is not ours.

    Raises:
        CorpusError: for what is wrong with the capture, with its place.
        ConfigError: for options that do not fit it.
        CacheError, LockedError: as of CacheBuilder.
    """
    from kdcache.tasks.tokenizer import load_tokenizer

    kind = FORMATS[format]
    tokenizer = load_tokenizer(Path(options.tokenizer))
    pin = pin_tokenizer(options.tokenizer, tokenizer)
    options = replace(options, vocab_size=pin.vocab_size, bos_token_id=tokenizer.bos_token_id)
    capture = kind(paths, options)
    if options.num_classes is None and (own := capture.num_classes) is not None and own < options.vocab_size:
        options = replace(options, num_classes=own)
    texts = _first_texts(capture, options)
    record = _dense_record(capture, options) if capture.knows_every_class else _captured_record(capture, options, texts)
    if options.check_alignment and (warning := check_alignment(texts, options.shift)):
        say(f"warning: {warning}")
    task = task_of({"name": DEFAULT})
    try:
        header = Header(
            backend=backend,
            task={"name": task.name, "attention": task.attention},
            records=(record,),
            num_classes=options.classes,
            fields=task_fields(task, pin.vocab_size, options.classes, (record,)),
            tokenizer=pin,
            teacher=None if teacher is None else TeacherPin(name=teacher),
            compute={"rows_per_shard": options.rows_per_shard, "import": _facts(format, capture, options, record)},
            libraries=library_versions(backend, teacher=capture.knows_every_class),
        )
    except ValidationError as error:
        raise CacheError(f"this cache cannot be written: {first_fault(error)}") from None
    with CacheBuilder(CacheOutput(output, force=force), header, options.tokenizer) as builder:
        _fill(builder, capture, options, _rules(capture, options, record, texts))
        capture.check_unchanged()
        return builder.finalize(capture.num_units, corpus=CorpusPin(**capture.pin))


def _fill(builder: CacheBuilder, capture: Capture, options: ImportOptions, rules: Rules) -> None:
    """Commit every unit that is not there."""
    done = {commit.unit: commit.source_sha256 for commit in builder.commits()}
    with Progress(capture.num_units, "shards", "import") as progress:
        for index in range(capture.num_units):
            source = capture.unit_sha256(index)
            if index not in done:
                with builder.unit(index, source) as unit:
                    _fill_unit(unit, capture, options, rules)
            elif done[index] != source:
                raise CacheError(
                    f"{builder.root.url} was begun from other rows than the capture has in unit {index}, expected the "
                    "same: use another output folder"
                )
            progress.advance()


def _fill_unit(unit: Unit, capture: Capture, options: ImportOptions, rules: Rules) -> None:
    notes: Counter[str] = Counter()
    for text in _moved(capture.unit(unit.index), options.shift):
        if not len(text.positions):
            notes["texts_without_a_distribution"] += 1
            continue
        arrays = None
        if text.dense is None:
            arrays, above = record_arrays(text, rules)
            notes["positions_above_1_within_rounding"] += above
        try:
            example = checked_example(unit.header, text.tokens, positions=text.positions)
            if arrays is None:
                assert text.dense is not None
                unit.add(example, text.dense.astype(np.float32))
            else:
                unit.add_example(example)
                unit.add_record(arrays)
        except CacheError as error:
            raise CorpusError(f"{text.where}: {error}") from None
    unit.notes = {name: count for name, count in sorted(notes.items()) if count}


def _moved(texts: Iterator[Captured], shift: int) -> Iterator[Captured]:
    """The same with distributions moved by so many tokens; those that leave the text are dropped."""
    for text in texts:
        at_P = text.positions + shift
        inside_P = (at_P >= 0) & (at_P < len(text.tokens) - 1)
        if shift == 0 and inside_P.all():
            yield text
            continue
        inside_E = np.repeat(inside_P, text.counts)
        yield replace(
            text,
            positions=at_P[inside_P],
            counts=text.counts[inside_P],
            ids=text.ids[inside_E],
            log_probs=text.log_probs[inside_E],
            dense=None if text.dense is None else text.dense[inside_P],
        )


def _first_texts(capture: Capture, options: ImportOptions) -> list[Captured]:
    """Texts from the beginning with some positions. Raises CorpusError where there is none at all."""
    texts: list[Captured] = []
    positions = 0
    for index in range(capture.num_units):
        for text in _moved(capture.unit(index), options.shift):
            texts.append(text)
            positions += len(text.positions)
            if positions >= LOOKED_AT:
                return texts
    if not positions:
        raise CorpusError("the capture has no distribution that foretells a token, expected at least one")
    return texts


def _dense_record(capture: Capture, options: ImportOptions) -> RecordKind:
    if options.record is None:
        return Sampled(curve=CurveSpec(temperatures=(1.0,)))
    if options.temperature != 1 or options.top_k is not None or options.tail is not None:
        raise ConfigError("got --record with --temperature, --top-k or --tail, expected these of captures with entries")
    (kind, *others) = record_kinds(options.record)
    if others or not kind.distribution or kind.calibrated:
        raise ConfigError(f"got record {kind.kind}, expected one distribution that needs no hidden states")
    cut, above = capture.facts.get("cut_below_top_nats"), [T for T in TEMPERATURES if T > 1 and kind.answers(T)]
    if cut is not None and above:
        raise ConfigError(
            f"got record {kind.kind}, which answers temperature {above[0]:g}, expected one for temperatures up to 1, "
            f"such as '{{kind: drawn}}': of classes {cut:g} nats below the "
            "likeliest the capture knows the sum alone, and a higher temperature would make much of them"
        )
    return kind


def _captured_record(capture: Capture, options: ImportOptions, texts: Sequence[Captured]) -> CapturedRecord:
    if options.record is not None:
        raise ConfigError("got --record, expected it of a capture that knows every class")
    if options.tail is None and _renormalised(texts, options):
        raise ConfigError(
            "the entries of each position sum to 1, as if they had been renormalised: give --tail renormalise, or "
            "--tail ghost where no other class has any probability"
        )
    k = min(options.top_k or capture.top_k or _usual_count(capture, texts), options.classes)
    return CapturedRecord(k=k, temperature=options.temperature, tail=options.tail or "ghost")


def _usual_count(capture: Capture, texts: Sequence[Captured]) -> int:
    """How many entries positions have; without the label, where that is one more in many of them."""
    counts = Counter(int(count) for text in texts for count in text.counts)
    usual, often = counts.most_common(1)[0]
    if capture.may_have_label and usual > 1 and counts[usual - 1] * 20 > often:
        usual -= 1
    return max(usual, 1)


def _renormalised(texts: Sequence[Captured], options: ImportOptions) -> bool:
    positions = 0
    for text in texts:
        counts_P = text.counts[text.counts > 0]
        if not len(counts_P) or counts_P.max() >= options.classes:
            continue
        sums_P = np.add.reduceat(np.exp(text.log_probs), counts_P.cumsum() - counts_P)
        positions += len(sums_P)
        if (np.abs(sums_P - 1) > RENORMALISED).any():
            return False
    return positions >= 20


def _rules(capture: Capture, options: ImportOptions, record: RecordKind, texts: Sequence[Captured]) -> Rules:
    k = getattr(record, "k", options.classes)
    short = options.short_rows or capture.short_rows
    usual = capture.top_k or (k if capture.knows_every_class else _usual_count(capture, texts))
    return Rules(options.classes, k, 1 if short else min(usual, options.classes), capture.sum_tolerance)


def _facts(format: str, capture: Capture, options: ImportOptions, record: RecordKind) -> dict[str, Any]:
    """What `compute.import` of the header says."""
    missing = [] if capture.knows_every_class else ["entropy", "label_loss", "tail"]
    return {
        "format": format,
        "missing": missing,
        "answers": sorted({T for T in (*TEMPERATURES, options.temperature) if record.answers(T)}),
        "shift": options.shift,
        "short_rows": options.short_rows or capture.short_rows,
        **capture.facts,
    }
