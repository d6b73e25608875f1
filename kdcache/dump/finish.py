"""What a dump finds finished, and what it does when its own shards stand: the manifest, or a word on who is missing."""

import shutil
from pathlib import Path

import numpy as np

from kdcache.corpus import Corpus
from kdcache.dump.handing import Handing
from kdcache.dump.material import Material
from kdcache.dump.resume import standing
from kdcache.dump.units import check_share, no_position
from kdcache.errors import CacheError
from kdcache.progress import counted, say, show
from kdcache.store.builder import CacheBuilder
from kdcache.store.cache import read_manifest
from kdcache.store.commits import Commits
from kdcache.store.files import Root
from kdcache.store.manifest import CorpusPin
from kdcache.store.places import record_name
from kdcache.store.score import teacher_verdict
from kdcache.store.shards import manifest_of

__all__ = ["finish", "is_finished", "recorded_of"]


def is_finished(root: Root, builder: CacheBuilder, commits: Commits, corpus: Corpus) -> bool:
    """Whether cache.json is there and says what it would say if it were written now."""
    try:
        pin = CorpusPin.model_validate(corpus.pin)
        return read_manifest(root).digest() == manifest_of(builder.header, commits, pin)[0].digest()
    except CacheError:
        return False


def recorded_of(root: Root, builder: CacheBuilder, corpus: Corpus, lost: list[int]) -> dict[int, tuple[str, str]]:
    """Lost unit -> the digests that a finished cache of these settings and this corpus has of its shard and of its
    commit record; empty where there is no such cache."""
    try:
        manifest = read_manifest(root)
    except CacheError:
        return {}
    same = manifest.header == builder.header and manifest.corpus == CorpusPin.model_validate(corpus.pin)
    if not same:
        return {}
    shards = manifest.shards
    return {unit: (shards.digest("sha256", unit), shards.digest("record_sha256", unit)) for unit in lost}


def finish(material: Material, units: Handing, builder: CacheBuilder, work: Path | None) -> None:
    """Finalize, if no other process still has units to make. Raises CorpusError if the files changed meanwhile."""
    config, corpus = material.config, material.corpus
    corpus.check_unchanged()
    commits, num_units = builder.commits(), corpus.num_units
    missing = num_units - int((commits.units < num_units).sum())
    if not missing:
        missing = num_units - len(standing(commits, corpus, material.remedies)[0])
    if missing:
        _check_own(material, builder, commits, units.share(num_units))
        say(
            f"{units.name} is done; the other ranks still make {missing} of "
            f"{counted(num_units, 'shard')} (if they were killed, run the same command again)"
        )
        return
    check_share(config, corpus, commits.skipped())
    if commits.positions == 0:
        raise no_position(corpus, material.task)
    builder.forget_beyond(num_units)
    commits = commits.among(lambda found: found < num_units)
    pin = CorpusPin.model_validate(corpus.pin)
    manifest = builder.finalize(num_units, corpus=pin, where=corpus.where, commits=commits)
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


def _check_own(material: Material, builder: CacheBuilder, commits: Commits, own: range) -> None:
    """A rank is done where its own shards stand. Raises CacheError where one does not, though it was made."""
    mine = commits.among(lambda found: np.isin(found, np.asarray(own)))
    stand, reasons = standing(mine, material.corpus, material.remedies)
    lost = [unit for unit in own if unit not in stand]
    if lost:
        why = next(iter(reasons), None) or f"{record_name(lost[0])} {builder.why_not(lost[0])}"
        raise CacheError(
            f"{counted(len(lost), 'shard')} of this rank cannot stay, although it was made or found: {why}; expected "
            "that nobody else changes the cache meanwhile: run the same command again to make it anew"
        )
