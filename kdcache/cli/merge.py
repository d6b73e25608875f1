"""`kdcache merge`: several caches to one."""

import click

from kdcache.cli.options import PATH, with_force, with_module

__all__ = ["merge"]


@click.command()
@click.argument("caches", nargs=-1, required=True, type=PATH, metavar="CACHE CACHE...")
@click.option("--out", required=True, type=PATH, help="The new cache: a folder or URL.")
@click.option(
    "--allow",
    multiple=True,
    metavar="KEY",
    help="Let this key of the headers differ: teacher, seed or libraries. May be given several times.",
)
@with_module
@with_force
def merge(caches: tuple[str, ...], out: str, allow: tuple[str, ...], force: bool) -> None:
    """Write the examples of several finished caches as the one cache OUT, in the order of the caches.

    They have the same task, classes, tokenizer and record settings. Caches of different teachers, seeds or versions of
    libraries are refused, unless --allow says that this is meant. Nothing is computed anew: records stay what they
    were, and a shard of the backend zarr keeps its bytes but for its stamp. The sources are only read.

    The header of OUT says which caches it was made of: digest, teacher, corpus and seed of each (kdcache inspect
    shows them). You may interrupt it at any time and run it again. To take a part out of it later, see kdcache filter.

    \b
    kdcache merge runs/web runs/code --out runs/both
    kdcache merge runs/small-teacher runs/large-teacher --out runs/both --allow teacher
    """
    from kdcache.report.rewrite import merge_caches

    merge_caches(caches, out, allow=allow, force=force)
