"""`kdcache cut`: a student from some of the layers of a teacher."""

from pathlib import Path

import click

from kdcache.cli.options import LOCAL, with_force, with_trust
from kdcache.errors import printable

__all__ = ["cut"]


@click.command()
@click.argument("teacher", type=LOCAL)
@click.option("--layers", required=True, metavar="0,4,8,…", help="The layers to keep, counted from 0.")
@click.option("--out", required=True, type=LOCAL, help="The folder of the new model.")
@with_trust
@with_force
def cut(teacher: str, layers: str, out: str, trust_remote_code: bool, force: bool) -> None:
    """Make a student from some of TEACHER's layers; embeddings, final norm and head stay as they are.

    \b
    kdcache cut models/SmolLM2-135M --layers 0,5,10,15,20,29 --out models/cut-6
    """
    from kdcache.models.cut import cut as cut_layers

    try:
        numbers = [int(part) for part in layers.split(",")]
    except ValueError:
        raise click.UsageError(f"got --layers {layers}, expected numbers such as 0,4,8") from None
    folder = cut_layers(teacher, numbers, Path(out), trust_remote_code=trust_remote_code, force=force)
    click.echo(f"wrote {printable(folder)}")
