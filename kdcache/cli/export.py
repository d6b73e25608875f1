"""`kdcache export`: the student of a checkpoint."""

from pathlib import Path

import click

from kdcache.cli.options import PATH, with_force

__all__ = ["export"]


@click.command("export")
@click.argument("run", type=PATH)
@click.option("--out", required=True, type=PATH, help="The folder of the student.")
@click.option("--step", type=click.IntRange(min=1), help="Whose checkpoint is taken; by default the newest.")
@click.option(
    "-o",
    "--override",
    "overrides",
    multiple=True,
    metavar="KEY=VALUE",
    help="Replace a setting of the run, where what it names was moved: -o cache=… or -o student.path=…",
)
@with_force
def export(run: str, out: str, step: int | None, overrides: tuple[str, ...], force: bool) -> None:
    """Write the student of a checkpoint of RUN, the output folder of a training run, as a Hugging Face folder.

    The cache and the folder that the student was made from have to be where the run found them, or where -o says.

    \b
    kdcache export runs/student --out runs/student-now
    kdcache export runs/student --step 2000 --out runs/student-2000 -o cache=/elsewhere/cache
    """
    from kdcache.train.export_step import export_step

    folder, written = export_step(Path(run), Path(out), step=step, overrides=overrides, force=force)
    click.echo(f"wrote {folder}, the student after step {written}")
