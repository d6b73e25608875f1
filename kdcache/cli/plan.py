"""`kdcache plan`: what a cache and the runs from it will cost."""

import json
from typing import Any

import click

from kdcache.report.plan import amount, spoken
from kdcache.report.simulate import CONSTANTS

__all__ = ["plan"]


class _Amount(click.ParamType):
    """A number, perhaps with k, M, B or T behind it."""

    name = "number"

    def convert(self, value: Any, param: click.Parameter | None, ctx: click.Context | None) -> float:
        return amount(str(value))


def with_constants(command: Any) -> Any:
    """An option for each constant of a simulated plan."""
    for constant in reversed(CONSTANTS):
        usual = f"{spoken(constant.value, constant.unit)}, {constant.origin}: {constant.source}"
        text = f"{constant.words[0].upper()}{constant.words[1:]}. [{usual}]"
        command = click.option(f"--{constant.name.replace('_', '-')}", type=_Amount(), help=text)(command)
    return command


@click.command()
@click.option("--simulate", is_flag=True, help="Figures from constants alone: nothing is read, nothing is run.")
@click.option("--json", "as_json", is_flag=True, help="Print JSON instead of a table.")
@with_constants
def plan(*, simulate: bool, as_json: bool, **given: float | None) -> None:
    """Say what a cache and the runs from it will cost, before anything is spent.

    With --simulate the figures are of a corpus of 100 billion tokens on 512 GPUs, or of what you give: size of the
    cache, time of the dump, of opening, restarting and verifying, rates in training, and how many students make the
    cache worth it. Each figure stands beside its formula, and each constant says whether it was measured (by which file
    of tests/bench), cited, assumed, or given by you. Numbers may be written as 100B, 64M or 1e11.

    \b
    kdcache plan --simulate
    kdcache plan --simulate --tokens 15T --gpus 2048 --teacher-rate 2000 --student-rate 30000 --epochs 2
    """
    from kdcache.report.plan import render
    from kdcache.report.simulate import simulated

    if not simulate:
        raise click.UsageError("got plan alone, expected --simulate")
    made = simulated(given)
    click.echo(json.dumps(made.facts(), indent=1) if as_json else render(made))
