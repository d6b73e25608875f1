"""`kdcache eval`: students and teacher in one table."""

import json
from typing import Any

import click

from kdcache.cli.options import LOCAL, PATH, shown, with_module, with_trust

__all__ = ["evaluate"]


@click.command("eval")
@click.argument("students", nargs=-1, required=True, type=LOCAL)
@click.option(
    "--cache", required=True, type=PATH, help="A held-out cache: the text to score on, and the teacher's logits."
)
@click.option("--untrained", is_flag=True, help="Add a row for the first student's architecture with random weights.")
@click.option(
    "--batch-examples",
    default=8,
    show_default=True,
    type=click.IntRange(min=1),
    help="How many examples one forward pass takes.",
)
@click.option(
    "--temperature",
    default=1.0,
    show_default=True,
    type=click.FloatRange(min=0, min_open=True),
    help="The temperature of the KL to the teacher.",
)
@click.option(
    "--device",
    default="auto",
    show_default=True,
    type=click.Choice(["auto", "cpu", "cuda"]),
    help="auto takes a GPU if there is one.",
)
@click.option("--teacher", type=LOCAL, help="The teacher's folder, to measure its speed beside the students'.")
@with_module
@with_trust
@click.option("--per-class", is_flag=True, help="Add a table with the scores of each class, or of each type of entity.")
@click.option(
    "--json", "as_json", is_flag=True, help="Print JSON instead of a table; it has the scores of each class too."
)
def evaluate(students: tuple[str, ...], per_class: bool, as_json: bool, **options: Any) -> None:
    """Compare STUDENTS (model folders, or names on the hub) with the teacher on a held-out cache, in one table.

    The table has label NLL, perplexity, KL to the teacher and top-1 agreement. For a classification it has
    accuracy, macro-F1 or entity F1, calibration error, size and speed. The teacher's own figures come from the cache.

    \b
    kdcache eval runs/a/student runs/b/student --cache runs/held-out
    kdcache eval runs/spam/student --cache runs/spam-test --teacher runs/spam-teacher/student --batch-examples 32
    """
    from kdcache.report.evaluate import columns_of, evaluate_students, render, render_classes

    rows = evaluate_students(students, **options)
    click.echo(json.dumps(rows, indent=1) if as_json else shown(render(rows, columns_of(options["cache"]))))
    if per_class and not as_json:
        click.echo(f"\n{shown(render_classes(rows))}")
