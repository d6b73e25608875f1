"""`kdcache inspect`: what is in a cache."""

import json

import click

from kdcache.cli.options import PATH, shown, with_module

__all__ = ["inspect"]


@click.command()
@click.argument("cache", type=PATH)
@with_module
@click.option(
    "--temperature",
    "temperatures",
    multiple=True,
    type=click.FloatRange(min=0, min_open=True),
    help="Say what the records are worth at this temperature. May be given several times.",
)
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of text.")
def inspect(cache: str, temperatures: tuple[float, ...], as_json: bool) -> None:
    """Say what is in CACHE: task, teacher, corpus, record, shards, bytes per position.

    With --temperature it also says, from the first shard, how much probability the certain classes hold at that
    temperature, how many equal draws the sample of the others is worth, and how noisy a forward-KL gradient is (below
    0.5 the noise is harmless). Ask before a run is wasted.

    \b
    kdcache inspect runs/cache --temperature 1 --temperature 2
    """
    from kdcache.report.inspect import describe, render

    facts = describe(cache, temperatures)
    click.echo(json.dumps(facts, indent=1) if as_json else shown(render(facts)))
