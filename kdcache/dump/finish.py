"""What a dump finds finished, and what it does when its own shards stand: the manifest, or a word on who is missing."""

import shutil
from pathlib import Path

from kdcache.corpus import Corpus
from kdcache.dump.material import Material
from kdcache.dump.resume import standing
from kdcache.dump.units import check_share, no_position
from kdcache.errors import CacheError
from kdcache.launcher import World
from kdcache.progress import counted, say, show
from kdcache.store.builder import CacheBuilder
from kdcache.store.cache import read_manifest
from kdcache.store.files import Root
from kdcache.store.manifest import CommitRecord, CorpusPin, Manifest
from kdcache.store.places import record_name
from kdcache.store.score import teacher_verdict

__all__ = ["finish", "is_finished", "recorded_of"]


def is_finished(root: Root, builder: CacheBuilder, commits: list[CommitRecord], corpus: Corpus) -> bool:
    """Whether cache.json is there and says what it would say if it were written now."""
    try:
        return read_manifest(root) == Manifest.of(builder.header, tuple(commits), CorpusPin.model_validate(corpus.pin))
    except CacheError:
        return False


def recorded_of(root: Root, builder: CacheBuilder, corpus: Corpus) -> dict[int, CommitRecord]:
    """What a finished cache of these settings and this corpus says of its shards, some of which are lost."""
    try:
        manifest = read_manifest(root)
    except CacheError:
        return {}
    same = manifest.header == builder.header and manifest.corpus == CorpusPin.model_validate(corpus.pin)
    return {commit.unit: commit for commit in manifest.shards} if same else {}


def finish(material: Material, world: World, builder: CacheBuilder, work: Path | None) -> None:
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
