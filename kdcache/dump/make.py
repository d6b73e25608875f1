"""Make shards, unit by unit. A shard is encoded and written by one background thread while the teacher goes on."""

import time
from functools import partial

import numpy as np

from kdcache.dump.background import Background
from kdcache.dump.classifier import AnyTeacher
from kdcache.dump.material import Material
from kdcache.dump.records import unit_arrays
from kdcache.dump.teacher import Teacher
from kdcache.dump.units import UnitExamples, check_share, remedies
from kdcache.launcher import World
from kdcache.progress import Progress, counted, say, spoken_duration
from kdcache.store.builder import CacheBuilder
from kdcache.store.manifest import CommitRecord, SkippedRow
from kdcache.targets.records import calibrated_of

__all__ = ["make_shards"]


def make_shards(
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
