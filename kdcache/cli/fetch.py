"""`kdcache fetch`: a copy of a published cache."""

import click

from kdcache.cli.options import LOCAL, PATH, with_module

__all__ = ["fetch"]


@click.command()
@click.argument("url", type=PATH)
@click.option("--out", required=True, type=LOCAL, metavar="FOLDER", help="Where the copy is made.")
@click.option("--digest", metavar="SHA256", help="Of the cache that you want, or its first 12 digits.")
@click.option("--force", is_flag=True, help="Replace another cache that is in FOLDER; its files are deleted.")
@with_module
def fetch(url: str, *, out: str, digest: str | None, force: bool) -> None:
    """Copy the cache at URL to a folder of this machine.

    Each file is compared with the digest that the cache has of it. Wrong bytes are fetched again, and if they stay
    wrong, the file is named and not kept. A fetch that was stopped goes on when it is started again. Of the Hub, the
    commit is read that the branch was at the start.

    \b
    kdcache fetch hf://datasets/ann/smollm2-logits --out runs/cache
    kdcache fetch hf://datasets/ann/smollm2-logits@v1 --out runs/cache --digest 3f2a90c41b77
    kdcache fetch s3://bucket/caches/smollm2 --out runs/cache
    """
    from kdcache.share.fetch import fetch as fetch_cache

    fetch_cache(url, out, digest=digest, force=force)
