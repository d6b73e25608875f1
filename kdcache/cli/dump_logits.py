"""`kdcache dump-logits`: a teacher over a corpus, into a cache."""

import click

from kdcache.cli.options import LOCAL, with_force, with_overrides

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
    "--profile",
    type=LOCAL,
    metavar="FILE.json",
    help="Write when each stage worked on which unit, in Chrome's trace format.",
)
@with_force
def dump_logits(
    config: str,
    overrides: tuple[str, ...],
    *,
    rank: int | None,
    world_size: int | None,
    check: bool,
    profile: str | None,
    force: bool,
) -> None:
    """Run the teacher that the settings file CONFIG names over its corpus, and write its logits to a cache.

    You may interrupt it at any time and run it again: finished shards are kept. The number of ranks may change between
    the runs, and so may the corpus: only shards whose rows changed are made again.

    With --check it looks at every row of the corpus before the teacher is loaded, names bad rows and the settings that
    would help, and writes nothing. The exit status is 1 if the bad rows would end the dump.

    At the end it says which share of the time tokenising, the teacher's forward passes, compression and writing took;
    they run side by side. With --profile the file shows that on a time line (open it in ui.perfetto.dev); of several
    ranks each writes its own, FILE.RANK.json.

    Ranks do not talk to each other, so they may be started by any launcher or by hand:

    \b
    kdcache dump-logits dump.yaml --check
    kdcache dump-logits dump.yaml
    deepspeed --num_gpus 8 --no_local_rank --module kdcache dump-logits dump.yaml
    torchrun --nproc-per-node 8 -m kdcache dump-logits dump.yaml
    srun kdcache dump-logits dump.yaml
    kdcache dump-logits dump.yaml --rank 3 --world-size 16
    """
    from kdcache.config.file import load_config
    from kdcache.dump.settings import DumpConfig
    from kdcache.launcher import World, find_world

    settings, process = load_config(DumpConfig, config, overrides), find_world(rank, world_size) or World()
    if not check:
        from kdcache.dump.run import run_dump

        run_dump(settings, process, force=force, profile=profile)
    elif process.rank == 0:
        from kdcache.dump.check import check_corpus

        check_corpus(settings)
