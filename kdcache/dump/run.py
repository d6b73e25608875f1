"""The loop over work units. A restart is a set difference: this rank's units minus those whose shards stand.

A unit is rows → examples → batches → logits → records → one shard, and nothing of it depends on the rank or the world
size. The shard is encoded and written by one background thread while the teacher goes on.
"""

import os
import shutil
import tempfile
import time
from dataclasses import replace
from functools import cache, partial
from pathlib import Path
from typing import Any

import torch

from kdcache.corpus import Corpus, open_corpus
from kdcache.dump.background import Background
from kdcache.dump.calibrate import calibrate
from kdcache.dump.classifier import AnyTeacher, load_classifier
from kdcache.dump.pins import build_header, pin_teacher
from kdcache.dump.prepare import check_labels, features_width, find_labels, made_of_corpus, settled
from kdcache.dump.records import unit_arrays
from kdcache.dump.resume import basis_fault, standing, with_begun_units
from kdcache.dump.settings import DumpConfig
from kdcache.dump.teacher import Teacher, load_teacher, own_devices, teacher_folder
from kdcache.dump.tokenizers import OwnTokens, find_tokenizers, own_tokens
from kdcache.dump.trial import begun_feeding, first_examples, pins_of, try_teacher
from kdcache.dump.units import check_share, no_position, remedies, unit_examples
from kdcache.errors import CacheError
from kdcache.launcher import World
from kdcache.models.registry import register_small_models
from kdcache.progress import Progress, counted, say, spoken_duration
from kdcache.store.cache import read_manifest
from kdcache.store.files import Root
from kdcache.store.manifest import CalibrationPin, CommitRecord, CorpusPin, Manifest, SkippedRow
from kdcache.store.score import teacher_verdict
from kdcache.store.tokenizer_files import pin_tokenizer
from kdcache.store.writer import CacheWriter
from kdcache.targets.basis import Basis
from kdcache.targets.calibration import Encoder
from kdcache.targets.compress import method_on
from kdcache.tasks import Example, Reader, task_of
from kdcache.tasks.tokenizer import gives_types, padding_id, save_tokenizer, tokenizing_libraries, vocabulary_size

__all__ = ["run_dump"]


def run_dump(config: DumpConfig, world: World) -> None:
    """Make this rank's shards, and the manifest if no unit is missing then.

    Raises ConfigError, CorpusError, TeacherError or CacheError; committed shards stay.
    """
    teacher = None if config.teacher == "none" else config.teacher
    folder = None if teacher is None else teacher_folder(teacher)
    if teacher is not None and folder is not None:
        register_small_models()
    cores = len(os.sched_getaffinity(0))
    threads = config.compute.threads or cores
    if threads > cores:
        say(f"compute.threads {threads} is more than the {counted(cores, 'core')} here: slower than threads: {cores}")
    torch.set_num_threads(threads)
    devices = [torch.device("cpu")] if teacher is None else own_devices(teacher, config.compute, world)

    root = Root(config.output)
    work = None if root.remote else Path(config.output) / "work"
    columns = task_of(config.task).columns(config.corpus)
    corpus = open_corpus(with_begun_units(config.corpus, root), columns, work)
    tokenizers = find_tokenizers(config, corpus, folder)
    tokenizer = tokenizers.cache
    config = settled(config, tokenizer, root)
    labels = find_labels(config, corpus, folder)
    own = own_tokens(config, tokenizers, labels, folder)
    task = task_of(config.task)
    reader = task.reader(tokenizer, config.corpus, labels)
    check_labels(config, corpus, reader)

    @cache
    def model() -> AnyTeacher | None:
        if teacher is None:
            return None
        say(f"loading {teacher.path} ({teacher.dtype}, {teacher.placement}) on {', '.join(map(str, devices))}")
        if task.generates:
            return load_teacher(
                teacher,
                config.compute,
                world,
                task=task,
                num_classes=header.num_classes,
                features=config.record.features is not None,
            )
        return load_classifier(
            teacher,
            config.compute,
            world,
            task=task,
            num_classes=header.num_classes,
            features=config.record.features,
            vocab_size=vocabulary_size(own.tokenizer if own else tokenizer),
            padding=padding_id(own.tokenizer if own else tokenizer),
            examples=first(),
        )

    @cache
    def first() -> list[Example]:
        return first_examples(corpus, own.reader if own else reader)

    @cache
    def feeding() -> dict[str, Any]:
        """How the teacher is fed, as the header pins it."""
        loaded = None if teacher is None else begun_feeding(root) or model()
        if loaded is None or isinstance(loaded, dict):
            return loaded or {}
        return pins_of(try_teacher(config, loaded, first(), own.length if own else task.longest))

    def fed() -> AnyTeacher | None:
        loaded = model()
        if loaded is not None:
            loaded.feeding = replace(loaded.feeding, **feeding())
        return loaded

    settings = remedies(config)

    def make_basis() -> tuple[Basis, CalibrationPin]:
        loaded = fed()
        assert isinstance(loaded, Teacher)
        return calibrate(config, corpus, reader, loaded)

    with tempfile.TemporaryDirectory() as copy:
        save_tokenizer(tokenizer, copy)
        header = build_header(
            config,
            corpus=corpus,
            tokenizer=pin_tokenizer(copy, tokenizer),
            teacher=None
            if teacher is None or folder is None
            else pin_teacher(teacher, folder, **({} if own is None else own.pins)),
            labels=labels,
            features=features_width(config, folder),
            types=not task.generates and gives_types(tokenizer),
            tokenizing=tokenizing_libraries(tokenizer, chats=config.corpus.messages_field is not None),
            compute={
                "device": devices[0].type,
                "compression": None if teacher is None else method_on(devices[0].type),
                "threads": threads,
                "batch_examples": config.compute.batch_examples,
                "block_positions": config.compute.block_positions,
            },
        )
        header = header.model_copy(update={"compute": header.compute | feeding()})
        writer = CacheWriter.from_header(
            config.output,
            header,
            copy,
            make_basis=make_basis,
            basis_fault=partial(basis_fault, corpus=corpus, settings=settings),
            from_corpus=made_of_corpus(config),
        )
    if writer.begun_anew:
        say(f"the corpus gives another {writer.begun_anew} than the cache was begun with: every shard is made again")

    commits, mine = writer.commits(), set(world.share(corpus.num_units))
    # Each rank compares its own shards, and the last one to finish all of them; a cache that seems done is read whole.
    looked_at = [c for c in commits if c.unit in mine or c.unit >= corpus.num_units]
    stand, reasons = standing(commits if root.exists("cache.json") else looked_at, corpus, settings)
    if not reasons and len(stand) == corpus.num_units and _is_finished(root, writer, commits, corpus):
        if work is not None:
            shutil.rmtree(work, ignore_errors=True)
        say(f"{config.output} is finished already: {counted(corpus.num_units, 'shard')}; nothing to do")
        return
    for reason, count in reasons.items():
        say(f"{counted(count, 'shard')} of {len(commits):,} cannot stay: {reason}")
    todo = [unit for unit in sorted(mine) if unit not in stand]
    if todo or reasons:
        root.delete("cache.json")
    if todo:
        skipped = [(commit.unit, row) for commit in commits if commit.unit in stand for row in commit.skipped or ()]
        _make_shards(config, world, writer, corpus, reader, own, fed(), todo, skipped)
    _finish(config, world, writer, corpus, settings, work)


def _is_finished(root: Root, writer: CacheWriter, commits: list[CommitRecord], corpus: Corpus) -> bool:
    """Whether cache.json is there and says what it would say if it were written now."""
    try:
        return read_manifest(root) == Manifest.of(writer.header, tuple(commits), CorpusPin.model_validate(corpus.pin))
    except CacheError:
        return False


def _make_shards(
    config: DumpConfig,
    world: World,
    writer: CacheWriter,
    corpus: Corpus,
    reader: Reader,
    fed: OwnTokens | None,
    teacher: AnyTeacher | None,
    todo: list[int],
    skipped: list[tuple[int, SkippedRow]],
) -> None:
    """skipped: bad rows that were left out of the shards that stand."""
    encoder = None
    if writer.basis is not None and isinstance(teacher, Teacher):
        encoder = Encoder(writer.basis, teacher.output_layer())
    own = len(world.share(corpus.num_units))
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
            own_reader = fed.reader if fed else None
            made = unit_examples(corpus, reader, unit, skip=config.on_bad_row == "skip", own=own_reader)
            skipped += [(unit, row) for row in made.skipped]
            if made.bad:
                check_share(config, corpus, skipped)
            arrays = unit_arrays(
                writer.header,
                unit,
                made.examples,
                teacher,
                encoder,
                batch_examples=config.compute.batch_examples,
                advance=advance,
                own=made.own,
            )
            commit = partial(
                writer.commit,
                source_sha256=made.source_sha256,
                notes=made.notes,
                skipped=made.skipped,
                made_under=remedies(config, made.notes),
            )
            background.submit(partial(commit, unit, arrays))
            progress.advance()
    elapsed = time.monotonic() - start
    rate = f"{tokens / elapsed:,.0f} tok/s"
    say(f"{counted(len(todo), 'shard')}, {tokens:,} tokens in {spoken_duration(elapsed)} ({rate})")


def _finish(
    config: DumpConfig, world: World, writer: CacheWriter, corpus: Corpus, settings: dict[str, str], work: Path | None
) -> None:
    """Finalize, if no other rank still has units to make. Raises CorpusError if the files changed meanwhile."""
    corpus.check_unchanged()
    commits, num_units = writer.commits(), corpus.num_units
    missing = num_units - sum(commit.unit < num_units for commit in commits)
    if not missing:
        missing = num_units - len(standing(commits, corpus, settings)[0])
    if missing:
        say(
            f"rank {world.rank} of {world.size} is done; the other ranks still make {missing} of "
            f"{counted(num_units, 'shard')} (if they were killed, run the same command again)"
        )
        return
    check_share(config, corpus, [(commit.unit, row) for commit in commits for row in commit.skipped or ()])
    if sum(commit.positions for commit in commits) == 0:
        raise no_position(corpus, task_of(config.task))
    writer.forget_beyond(num_units)
    manifest = writer.finalize(num_units, corpus=CorpusPin.model_validate(corpus.pin), where=corpus.where)
    if work is not None:
        shutil.rmtree(work, ignore_errors=True)
    totals = manifest.totals
    notes = "".join(f", {count:,} {name.replace('_', ' ')}" for name, count in totals.notes.items())
    print(
        f"{config.output}: {counted(totals.shards, 'shard')}, {counted(totals.examples, 'example')}, "
        f"{counted(totals.positions, 'position')}, "
        f"{totals.bytes / 1e6:,.2f} MB, {totals.bytes / totals.positions:.1f} bytes per position{notes}"
    )
    verdict = teacher_verdict(manifest)
    if verdict is not None:
        print(f"the teacher on the labels: {verdict.line}")
        for warning in verdict.warnings:
            say(f"warning: {warning}")
