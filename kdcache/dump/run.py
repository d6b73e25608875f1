"""One process of a dump. A restart is a set difference: this process' units minus those whose shards stand.

A unit is rows → examples → batches → logits → records → one shard, and nothing of it depends on the rank or the world
size.
"""

import shutil
from collections.abc import Mapping
from pathlib import Path

import numpy as np

from kdcache.dump.begin import begin, inputs_of, settings_to_keep
from kdcache.dump.finish import finish, is_finished, recorded_of
from kdcache.dump.handing import Handing, OwnShare
from kdcache.dump.hardware import use_threads
from kdcache.dump.lazy_teacher import LazyTeacher, devices_of
from kdcache.dump.make import make_shards
from kdcache.dump.material import Material, gather
from kdcache.dump.placements.following import follow
from kdcache.dump.placements.placement import placement_of
from kdcache.dump.placements.replica import join_replica
from kdcache.dump.resume import standing
from kdcache.dump.settings import DumpConfig
from kdcache.dump.stages import Stages
from kdcache.errors import CacheError, next_command
from kdcache.launcher import World
from kdcache.owned.folder import scratch
from kdcache.progress import counted, say
from kdcache.store.builder import CacheBuilder
from kdcache.store.files import Root
from kdcache.store.finished import unfinish
from kdcache.store.output import CacheOutput
from kdcache.store.places import record_name

__all__ = ["run_dump"]


def run_dump(
    config: DumpConfig,
    world: World,
    *,
    force: bool = False,
    profile: str | None = None,
    units: Handing | None = None,
    append: bool = False,
) -> None:
    """Make this process' shards, and the manifest if no unit is missing then.

    Args:
        config: The settings.
        world: Which rank this is, of how many.
        force: Write into a folder that is not ours, or in which another command writes.
        profile: A file for the stages' times, in Chrome's trace format; of several ranks each writes its own, with
            its number before the ending.
        units: Who gives units to this process; by default it makes its rank's share.
        append: Keep every shard of the finished cache, which can be read until its corpus' new rows are dumped too.

    Raises:
        ConfigError, CorpusError, TeacherError, CacheError, LockedError: Committed shards stay.
    """
    teacher = config.teacher
    if teacher == "none" or placement_of(teacher).ranks(teacher) == 1:
        _dump(config, world, force, profile, units, append)
        return
    with join_replica(teacher, config.compute, world) as replica:
        if replica.first:
            _dump(config, replica.world, force, profile, units, append)
        else:
            follow(replica, config.compute)


def _dump(
    config: DumpConfig, world: World, force: bool, profile: str | None, units: Handing | None, append: bool
) -> None:
    stages = Stages(profile and _of_rank(profile, world), world.rank)
    output = CacheOutput(config.output, "dump-logits", inputs_of(config), settings_to_keep(config), force)
    output.check()
    threads = use_threads(config, Root(config.output))
    devices = devices_of(config.teacher, config.compute, world)
    folder = Root(config.output).local
    work = None if folder is None else scratch(folder, "index")
    material = gather(config, work=work, append=append)
    teacher = LazyTeacher(material, devices, world)
    with begin(material, teacher, threads, output) as builder, stages:
        _make(material, teacher, builder, units or OwnShare(world), work, stages)


def _of_rank(profile: str, world: World) -> str:
    path = Path(profile)
    return profile if world.size == 1 else str(path.with_name(f"{path.stem}.{world.rank}{path.suffix}"))


def _make(
    material: Material, teacher: LazyTeacher, builder: CacheBuilder, units: Handing, work: Path | None, stages: Stages
) -> None:
    """This process' part of a cache that is begun."""
    config, root, corpus, settings = material.config, material.root, material.corpus, material.remedies
    if builder.begun_anew:
        say(f"the corpus gives another {builder.begun_anew} than the cache was begun with: every shard is made again")

    commits, mine = builder.commits(), set(units.share(corpus.num_units))
    # Each process compares its own shards, and who finishes all of them; a cache that seems done is read whole.
    own = commits.among(lambda found: np.isin(found, [*mine]) | (found >= corpus.num_units))
    stand, reasons = standing(commits if material.kept or root.exists("cache.json") else own, corpus, settings)
    _check_kept(material, builder, stand, reasons)
    if not reasons and len(stand) == corpus.num_units and is_finished(root, builder, commits, corpus):
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
    recorded = {} if reasons else recorded_of(root, builder, corpus, todo)
    if not material.kept and (reasons or (todo and not recorded)):
        unfinish(root)
    if todo:
        skipped = [(unit, row) for unit, row in commits.skipped() if unit in stand]
        make_shards(material, units, builder, teacher.ready(), todo, skipped, recorded, stages)
    if units.finishes:
        finish(material, units, builder, work)


def _check_kept(material: Material, builder: CacheBuilder, stand: set[int], reasons: Mapping[str, int]) -> None:
    """Raises CacheError where a shard of the cache that is appended to does not stand."""
    lost = [unit for unit in range(material.kept) if unit not in stand]
    if lost:
        why = f": {next(iter(reasons))}" if reasons else f": {record_name(lost[0])} {builder.why_not(lost[0])}"
        raise CacheError(
            f"{counted(len(lost), 'shard')} of {material.kept:,} of {material.config.output} cannot stay{why}; "
            "expected for --append the rows that they were made of, unchanged, and new rows after the last of them "
            "(files are read in the order of their names)"
        )
