"""The loop over work units. A restart is a set difference: this rank's units minus those whose shards stand.

A unit is rows → examples → batches → logits → records → one shard, and nothing of it depends on the rank or the world
size. The shard is encoded and written by one background thread while the teacher goes on.
"""

import glob
import os
import shutil
import tempfile
import time
from functools import partial
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.corpus import Corpus
from kdcache.dump.background import Background
from kdcache.dump.calibrate import calibrate
from kdcache.dump.classifier import AnyTeacher
from kdcache.dump.hardware import machine_pins, use_threads
from kdcache.dump.lazy_teacher import LazyTeacher, devices_of
from kdcache.dump.material import Material, gather
from kdcache.dump.pins import build_header, pin_teacher
from kdcache.dump.prepare import features_width, made_of_corpus
from kdcache.dump.records import unit_arrays
from kdcache.dump.resume import basis_fault, standing
from kdcache.dump.settings import DumpConfig
from kdcache.dump.teacher import Teacher
from kdcache.dump.units import UnitExamples, check_share, no_position, remedies
from kdcache.errors import CacheError, next_command
from kdcache.launcher import World
from kdcache.owned.folder import scratch
from kdcache.progress import Progress, counted, say, show, spoken_duration
from kdcache.store.builder import CacheBuilder
from kdcache.store.cache import read_manifest
from kdcache.store.files import Root
from kdcache.store.finished import unfinish
from kdcache.store.manifest import (
    CalibrationPin,
    CommitRecord,
    CorpusPin,
    Header,
    Manifest,
    SkippedRow,
    TokenizerPin,
)
from kdcache.store.output import CacheOutput
from kdcache.store.score import teacher_verdict
from kdcache.store.shard import record_name
from kdcache.store.tokenizer_files import pin_tokenizer
from kdcache.targets.basis import Basis
from kdcache.targets.records import calibrated_of
from kdcache.targets.sparse_rows import method_on
from kdcache.tasks.tokenizer import gives_types, save_tokenizer, tokenizing_libraries

__all__ = ["made_header", "run_dump"]


def run_dump(config: DumpConfig, world: World, *, force: bool = False) -> None:
    """Make this rank's shards, and the manifest if no unit is missing then.

    force: write into a folder that is not ours, or in which another command writes.
    Raises ConfigError, CorpusError, TeacherError, CacheError or LockedError; committed shards stay.
    """
    output = CacheOutput(config.output, "dump-logits", inputs_of(config), settings_to_keep(config), force)
    output.check()
    threads = use_threads(config, Root(config.output))
    devices = devices_of(config.teacher, config.compute, world)
    folder = Root(config.output).local
    work = None if folder is None else scratch(folder, "index")
    material = gather(config, work=work)
    teacher = LazyTeacher(material, devices, world)
    with _begin(material, teacher, threads, output) as builder:
        _make(material, teacher, builder, world, work)


def inputs_of(config: DumpConfig) -> dict[str, list[str]]:
    """The local files and folders that a dump reads, by setting."""
    found = {"corpus.paths": [name for path in config.corpus.paths for name in glob.glob(path) or [path]]}
    if config.teacher != "none":
        found["teacher.path"] = [config.teacher.path]
    if config.tokenizer is not None:
        found["tokenizer"] = [config.tokenizer]
    return found


def settings_to_keep(config: DumpConfig) -> dict[str, Any]:
    """The settings as JSON, with files and folders by their whole paths: a repair may run in another folder."""
    kept = config.model_dump(mode="json")
    kept["corpus"]["paths"] = [_whole_path(path) for path in config.corpus.paths]
    if config.teacher != "none":
        kept["teacher"]["path"] = _whole_path(config.teacher.path)
    if config.tokenizer is not None:
        kept["tokenizer"] = _whole_path(config.tokenizer)
    return kept


def _whole_path(path: str) -> str:
    """A URL, and a name on the hub, stay."""
    return os.path.abspath(path) if "://" not in path and (glob.glob(path) or os.path.exists(path)) else path


def _make(material: Material, teacher: LazyTeacher, builder: CacheBuilder, world: World, work: Path | None) -> None:
    """This rank's part of a cache that is begun."""
    config, root, corpus, settings = material.config, material.root, material.corpus, material.remedies
    if builder.begun_anew:
        say(f"the corpus gives another {builder.begun_anew} than the cache was begun with: every shard is made again")

    commits, mine = builder.commits(), set(world.share(corpus.num_units))
    # Each rank compares its own shards, and the last one to finish all of them; a cache that seems done is read whole.
    looked_at = [c for c in commits if c.unit in mine or c.unit >= corpus.num_units]
    stand, reasons = standing(commits if root.exists("cache.json") else looked_at, corpus, settings)
    if not reasons and len(stand) == corpus.num_units and _is_finished(root, builder, commits, corpus):
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        say(
            f"{config.output} is finished already: {counted(corpus.num_units, 'shard')}; nothing to do "
            f"(to check every byte, {next_command('verify', config.output)})"
        )
        return
    for reason, count in reasons.items():
        say(f"{counted(count, 'shard')} of {len(commits):,} cannot stay: {reason}")
    todo = [unit for unit in sorted(mine) if unit not in stand]
    recorded = {} if reasons else _recorded(root, builder, corpus)
    if reasons or (todo and not recorded):
        unfinish(root)
    if todo:
        skipped = [(commit.unit, row) for commit in commits if commit.unit in stand for row in commit.skipped or ()]
        _make_shards(material, world, builder, teacher.ready(), todo, skipped, recorded)
    _finish(material, world, builder, work)


def _begin(material: Material, teacher: LazyTeacher, threads: int, output: CacheOutput) -> CacheBuilder:
    """A new cache, or one that was begun with the same settings. Raises CacheError where it was begun with others."""
    config, corpus = material.config, material.corpus

    def make_basis() -> tuple[Basis, CalibrationPin]:
        loaded = teacher.ready()
        assert isinstance(loaded, Teacher)
        kind = calibrated_of(config.record)
        assert kind is not None
        return calibrate(config, kind, corpus, material.reader, loaded)

    with tempfile.TemporaryDirectory() as copy:
        save_tokenizer(material.tokenizer, copy)
        return CacheBuilder(
            output,
            made_header(material, teacher, pin_tokenizer(copy, material.tokenizer), threads),
            copy,
            make_basis=make_basis,
            basis_fault=partial(basis_fault, corpus=corpus, settings=material.remedies),
            from_corpus=made_of_corpus(config),
        )


def made_header(material: Material, teacher: LazyTeacher, tokenizer: TokenizerPin, threads: int) -> Header:
    """What decides the bytes of every shard."""
    config, folder, device, of_teacher = material.config, material.folder, teacher.devices[0], None
    if config.teacher != "none" and folder is not None and material.teacher_files is not None:
        own = material.own.pins if material.own else {}
        of_teacher = pin_teacher(config.teacher, folder, material.teacher_files, **own)
    header = build_header(
        config,
        corpus=material.corpus,
        tokenizer=tokenizer,
        teacher=of_teacher,
        labels=material.labels,
        features=features_width(config, folder),
        types=not material.task.generates and gives_types(material.tokenizer),
        tokenizing=tokenizing_libraries(material.tokenizer, chats=config.corpus.messages_field is not None),
        compute={
            "device": device.type,
            "compression": None if folder is None else method_on(device.type),
            **machine_pins(config, device, threads),
            "batch_examples": config.compute.batch_examples,
            "block_positions": config.compute.block_positions,
        },
    )
    return header.model_copy(update={"compute": header.compute | teacher.feeding})


def _is_finished(root: Root, builder: CacheBuilder, commits: list[CommitRecord], corpus: Corpus) -> bool:
    """Whether cache.json is there and says what it would say if it were written now."""
    try:
        return read_manifest(root) == Manifest.of(builder.header, tuple(commits), CorpusPin.model_validate(corpus.pin))
    except CacheError:
        return False


def _recorded(root: Root, builder: CacheBuilder, corpus: Corpus) -> dict[int, CommitRecord]:
    """What a finished cache of these settings and this corpus says of its shards, some of which are lost."""
    try:
        manifest = read_manifest(root)
    except CacheError:
        return {}
    same = manifest.header == builder.header and manifest.corpus == CorpusPin.model_validate(corpus.pin)
    return {commit.unit: commit for commit in manifest.shards} if same else {}


def _make_shards(
    material: Material,
    world: World,
    builder: CacheBuilder,
    teacher: AnyTeacher | None,
    todo: list[int],
    skipped: list[tuple[int, SkippedRow]],
    recorded: dict[int, CommitRecord],
) -> None:
    """skipped: bad rows that were left out of the shards that stand. recorded: what lost shards are to be again."""
    config, encoder = material.config, None
    if builder.basis is not None and isinstance(teacher, Teacher):
        kind = calibrated_of(builder.header.records)
        assert kind is not None
        encoder = kind.make_encoder(builder.basis, teacher.output_layer())
    own = len(world.share(material.corpus.num_units))
    title = f"rank {world.rank}" if world.size > 1 else "dump"
    start, tokens = time.monotonic(), 0
    with (
        Progress(own, "shards", title, done=own - len(todo), quiet=world.rank > 0) as progress,
        Background() as background,
    ):

        def advance(count: int) -> None:
            nonlocal tokens
            tokens += count
            progress.set(**{"tok/s": f"{tokens / (time.monotonic() - start):,.0f}", "shard": f"{unit:06d}"})

        for unit in todo:
            made = material.unit(unit, skip=config.on_bad_row == "skip")
            skipped += [(unit, row) for row in made.skipped]
            if made.bad:
                check_share(config, material.corpus, skipped)
            arrays = unit_arrays(
                builder.header,
                unit,
                made.examples,
                teacher,
                encoder,
                batch_examples=config.compute.batch_examples,
                advance=advance,
                own=made.own,
            )
            background.submit(partial(_commit, material, builder, unit, made, arrays, recorded.get(unit)))
            progress.advance()
    elapsed = time.monotonic() - start
    rate = f"{tokens / elapsed:,.0f} tok/s"
    say(f"{counted(len(todo), 'shard')}, {tokens:,} tokens in {spoken_duration(elapsed)} ({rate})")


def _commit(
    material: Material,
    builder: CacheBuilder,
    unit: int,
    made: UnitExamples,
    arrays: dict[str, np.ndarray],
    expected: CommitRecord | None,
) -> None:
    """Raises CorpusError or TeacherError where the files that it was made of are others now."""
    material.check_unchanged(unit)
    builder.commit(
        unit,
        arrays,
        source_sha256=made.source_sha256,
        notes=made.notes,
        skipped=made.skipped,
        made_under=remedies(material.config, made.notes),
        expected=expected,
    )


def _check_own(material: Material, builder: CacheBuilder, commits: list[CommitRecord], own: range) -> None:
    """A rank is done where its own shards stand. Raises CacheError where one does not, though it was made."""
    mine = [commit for commit in commits if commit.unit in own]
    stand, reasons = standing(mine, material.corpus, material.remedies)
    lost = [unit for unit in own if unit not in stand]
    if lost:
        why = next(iter(reasons), None) or f"{record_name(lost[0])} {builder.why_not(lost[0])}"
        raise CacheError(
            f"{counted(len(lost), 'shard')} of this rank cannot stay, although it was made or found: {why}; expected "
            "that nobody else changes the cache meanwhile: run the same command again to make it anew"
        )


def _finish(material: Material, world: World, builder: CacheBuilder, work: Path | None) -> None:
    """Finalize, if no other rank still has units to make. Raises CorpusError if the files changed meanwhile."""
    config, corpus = material.config, material.corpus
    corpus.check_unchanged()
    commits, num_units = builder.commits(), corpus.num_units
    missing = num_units - sum(commit.unit < num_units for commit in commits)
    if not missing:
        missing = num_units - len(standing(commits, corpus, material.remedies)[0])
    if missing:
        _check_own(material, builder, commits, world.share(num_units))
        say(
            f"rank {world.rank} of {world.size} is done; the other ranks still make {missing} of "
            f"{counted(num_units, 'shard')} (if they were killed, run the same command again)"
        )
        return
    check_share(config, corpus, [(commit.unit, row) for commit in commits for row in commit.skipped or ()])
    if sum(commit.positions for commit in commits) == 0:
        raise no_position(corpus, material.task)
    builder.forget_beyond(num_units)
    manifest = builder.finalize(num_units, corpus=CorpusPin.model_validate(corpus.pin), where=corpus.where)
    if work is not None:
        shutil.rmtree(work, ignore_errors=True)
    totals = manifest.totals
    notes = "".join(f", {count:,} {name.replace('_', ' ')}" for name, count in totals.notes.items())
    show(
        f"{config.output}: {counted(totals.shards, 'shard')}, {counted(totals.examples, 'example')}, "
        f"{counted(totals.positions, 'position')}, "
        f"{totals.bytes / 1e6:,.2f} MB, {totals.bytes / totals.positions:.1f} bytes per position{notes}"
    )
    verdict = teacher_verdict(manifest)
    if verdict is not None:
        show(f"the teacher on the labels: {verdict.line}")
        for warning in verdict.warnings:
            say(f"warning: {warning}")
