"""Make shards, unit by unit, in four stages that run side by side (kdcache.dump.stages).

While the teacher works on a unit, the next one is read and tokenised, and the shards of the last two are encoded and
written. Nothing of that changes a byte, nor which error ends a dump: what is made ahead fails when its turn has come.
"""

import time
from contextlib import closing
from functools import partial
from itertools import repeat

import numpy as np

from kdcache.dump.background import Background
from kdcache.dump.engines.engine import Engine
from kdcache.dump.handing import Handing
from kdcache.dump.material import Material
from kdcache.dump.records import unit_arrays
from kdcache.dump.stages import Stages
from kdcache.dump.units import UnitExamples, check_share, remedies
from kdcache.progress import counted, say, spoken_duration
from kdcache.store.builder import CacheBuilder
from kdcache.store.manifest import SkippedRow
from kdcache.store.parallel import in_order
from kdcache.targets.calibration import Encoder
from kdcache.targets.records import calibrated_of

__all__ = ["make_shards"]


def make_shards(
    material: Material,
    units: Handing,
    builder: CacheBuilder,
    teacher: Engine | None,
    todo: list[int],
    skipped: list[tuple[int, SkippedRow]],
    recorded: dict[int, tuple[str, str]],
    stages: Stages,
) -> None:
    """Make the shards of these units.

    Args:
        material: What they are made of.
        units: Who gives them out.
        builder: Where they are committed.
        teacher: None for a cache of labels.
        todo: Those of them that are missing.
        skipped: (unit, row) of bad rows that were left out of the shards that stand; more are added.
        recorded: What lost shards are to be again.
        stages: Where the time is counted.

    Raises:
        CorpusError, TeacherError: A unit cannot be made; those before it stand.
        CacheError: A lost shard comes out otherwise than it was.
    """
    config, encoder = material.config, _encoder(builder, teacher)
    own = len(units.share(material.corpus.num_units))
    start, tokens, shards = time.monotonic(), 0, 0
    with (
        units.opened(todo, own),
        Background("shard-writer") as writing,
        closing(in_order(partial(_tokenised, material, stages), repeat(units), 1, ahead=1)) as tokenised,
        closing(units),
    ):

        def advance(count: int) -> None:
            nonlocal tokens
            tokens += count
            units.computed(unit, count)

        for _, taken in tokenised:
            if taken is None:
                break
            unit, made = taken
            skipped += [(unit, row) for row in made.skipped]
            if made.bad:
                check_share(config, material.corpus, skipped)
            arrays = unit_arrays(
                builder.header, unit, made.examples, teacher, encoder, advance=advance, own=made.own, stages=stages
            )
            writing.submit(partial(_commit, material, builder, units, unit, made, arrays, recorded.get(unit), stages))
            del arrays, made, taken  # else they stay while the next unit is made
            shards += 1
    elapsed = time.monotonic() - start
    in_all = f"{counted(shards, 'shard')}, {tokens:,} tokens in {spoken_duration(elapsed)}"
    say(f"{units.speaks_as}{in_all} ({tokens / elapsed:,.0f} tok/s)")
    say(f"{units.speaks_as}of this time, side by side: {stages.shares(elapsed)}")


def _encoder(builder: CacheBuilder, teacher: Engine | None) -> Encoder | None:
    """Of calibrated records, where one of them is."""
    if builder.basis is None or teacher is None:
        return None
    kind = calibrated_of(builder.header.records)
    assert kind is not None
    return kind.make_encoder(builder.basis, teacher.output_layer())


def _tokenised(material: Material, stages: Stages, units: Handing) -> tuple[int, UnitExamples] | None:
    """The next unit; None where there is none."""
    unit = units.take()
    if unit is None:
        return None
    with stages.span("tokenise", unit):
        return unit, material.unit(unit, skip=material.config.on_bad_row == "skip")


def _commit(
    material: Material,
    builder: CacheBuilder,
    units: Handing,
    unit: int,
    made: UnitExamples,
    arrays: dict[str, np.ndarray],
    expected: tuple[str, str] | None,
    stages: Stages,
) -> None:
    """Raises CorpusError or TeacherError where the files that it was made of are others now."""
    try:
        with stages.span("write", unit):
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
        units.committed(unit)
    except BaseException:
        units.close()  # nobody waits for a unit that is never given because of this one
        raise
