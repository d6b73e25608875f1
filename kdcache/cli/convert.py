"""`kdcache convert`: a cache with the other storage backend."""

import click

from kdcache.cli.options import PATH, with_force, with_module

__all__ = ["convert"]


@click.command()
@click.argument("source", type=PATH)
@click.argument("target", type=PATH)
@click.option(
    "--to", "backend", required=True, help="Backend of TARGET: zarr, arrow, parquet, or one that --module registers."
)
@with_module
@with_force
def convert(source: str, target: str, backend: str, force: bool) -> None:
    """Write the cache SOURCE as the cache TARGET with another storage backend, shard by shard."""
    from kdcache.report.rewrite import convert_cache

    convert_cache(source, target, backend, force=force)
