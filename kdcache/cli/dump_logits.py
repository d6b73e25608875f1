"""`kdcache dump-logits`: a teacher over a corpus, into a cache."""

from typing import TYPE_CHECKING, Any

import click

from kdcache.cli.options import LOCAL, with_force, with_overrides
from kdcache.errors import ConfigError

if TYPE_CHECKING:
    from kdcache.dump.settings import DumpConfig
    from kdcache.launcher import World

__all__ = ["dump_logits"]


@click.command("dump-logits")
@click.argument("config", type=LOCAL)
@with_overrides
@click.option(
    "--rank", type=click.IntRange(min=0), help="The number of this process, counted from 0, if no launcher sets RANK."
)
@click.option(
    "--world-size",
    type=click.IntRange(min=1),
    help="How many processes share the work, if no launcher sets WORLD_SIZE.",
)
@click.option(
    "--check", is_flag=True, help="Look at every row of the corpus without loading the teacher; write nothing."
)
@click.option(
    "--append",
    is_flag=True,
    help="The corpus of a finished cache got more rows at its end: keep every shard, and dump the new rows.",
)
@click.option(
    "--profile",
    type=LOCAL,
    metavar="FILE.json",
    help="Write when each stage worked on which unit, in Chrome's trace format.",
)
@click.option("--ray", "on_ray", is_flag=True, help="Hand the shards out to the workers of a Ray cluster.")
@click.option(
    "--num-workers",
    type=click.IntRange(min=1),
    help="Of Ray: how many; by default as many as there is room for. Those without a place join when there is one.",
)
@click.option(
    "--gpus-per-worker",
    type=click.FloatRange(min=0),
    help="Of Ray: by default as many as one copy of the teacher takes, and none where no machine has one.",
)
@click.option(
    "--ray-address",
    metavar="HOST:PORT",
    help="Of Ray: the head of the cluster; by default RAY_ADDRESS, or what runs here, or this machine alone.",
)
@with_force
def dump_logits(
    config: str,
    overrides: tuple[str, ...],
    *,
    rank: int | None,
    world_size: int | None,
    check: bool,
    append: bool,
    profile: str | None,
    on_ray: bool,
    force: bool,
    **of_ray: Any,
) -> None:
    """Run the teacher that the settings file CONFIG names over its corpus, and write its logits to a cache.

    You may interrupt it at any time and run it again: finished shards are kept. The number of ranks may change between
    the runs, and so may the corpus: only shards whose rows changed are made again.
    With --append, a finished cache stays readable while rows that came after the old ones are dumped: old shards stay.

    With --check it looks at every row of the corpus before the teacher is loaded, names bad rows and the settings that
    would help, and writes nothing. The exit status is 1 if the bad rows would end the dump.

    At the end it says which share of the time tokenising, the teacher's forward passes, compression and writing took;
    they run side by side. With --profile the file shows that on a time line (open it in ui.perfetto.dev); of several
    ranks each writes its own, FILE.RANK.json.

    Ranks do not talk to each other, so they may be started by any launcher or by hand. Where g of them hold one copy of
    the teacher (teacher.ranks_per_replica: g), their number is a multiple of g, and a launcher starts them:

    \b
    kdcache dump-logits dump.yaml --check
    kdcache dump-logits dump.yaml
    deepspeed --num_gpus 8 --no_local_rank --module kdcache dump-logits dump.yaml
    torchrun --nproc-per-node 8 -m kdcache dump-logits dump.yaml
    srun kdcache dump-logits dump.yaml
    kdcache dump-logits dump.yaml --rank 3 --world-size 16

    With --ray, a Ray cluster places and restarts workers, each of which is given a shard when it has room for one; what
    a dead one held is made by others. Paths are the same on every machine. launch/CLUSTER.md has more, and recipes for
    Slurm's arrays, SkyPilot and Spark:

    \b
    kdcache dump-logits dump.yaml --ray --num-workers 16 --gpus-per-worker 2 --ray-address 10.0.0.1:6379
    """
    from kdcache.config.file import load_config
    from kdcache.dump.settings import DumpConfig
    from kdcache.launcher import World, find_world

    settings, process = load_config(DumpConfig, config, overrides), find_world(rank, world_size) or World()
    _check_options(append, check, on_ray, of_ray, process)
    if check:
        _check(settings, process)
    elif on_ray:
        from kdcache.dump.schedulers.ray import run_on_ray

        run_on_ray(settings, **of_ray, force=force, profile=profile)
    else:
        from kdcache.dump.run import run_dump

        run_dump(settings, process, force=force, profile=profile, append=append)


def _check(settings: "DumpConfig", process: "World") -> None:
    from kdcache.dump.check import check_corpus

    if process.rank == 0:
        check_corpus(settings)


def _check_options(append: bool, check: bool, on_ray: bool, of_ray: dict[str, Any], process: "World") -> None:
    """Raises ConfigError for options that exclude each other, for options of Ray without it, and for Ray in a rank."""
    if append and (on_ray or check):
        raise ConfigError(f"got --append and {'--ray' if on_ray else '--check'}, expected one of them")
    named = [f"--{name.replace('_', '-')}" for name, value in of_ray.items() if value is not None]
    if named and not on_ray:
        raise ConfigError(f"got {' and '.join(named)} without --ray, expected both")
    if on_ray and process.size > 1:
        rank = f"rank {process.rank} of {process.size}"
        raise ConfigError(f"got --ray in {rank}, expected one command alone, which starts its workers")
