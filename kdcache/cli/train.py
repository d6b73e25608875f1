"""`kdcache train`: a student from a cache."""

import sys

import click

from kdcache.cli.options import LOCAL, with_force, with_overrides

__all__ = ["train"]


@click.command()
@click.argument("config", type=LOCAL)
@with_overrides
@click.option(
    "--nproc", type=click.IntRange(min=1), help="Start the deepspeed launcher with this many ranks on this machine."
)
@with_force
def train(config: str, overrides: tuple[str, ...], nproc: int | None, force: bool) -> None:
    """Train the student that the settings file CONFIG names from a cache, with DeepSpeed.

    Run the same command again to go on from the last checkpoint. The number of ranks may change between the runs.
    SIGINT, SIGTERM and checkpoint.stop_after_minutes end it after a step, with a checkpoint and exit status 75; a
    second signal ends it at once.

    \b
    kdcache train train.yaml --nproc 8
    deepspeed --hostfile hosts --no_local_rank --module kdcache train train.yaml
    """
    from kdcache.config.file import load_config
    from kdcache.train.launch import run_train
    from kdcache.train.settings import TrainConfig

    settings = load_config(TrainConfig, config, overrides)
    sys.exit(run_train(settings, nproc=nproc, config_path=config, overrides=list(overrides), force=force))
