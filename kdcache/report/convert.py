"""`kdcache convert`: a cache in another storage backend, with progress."""

from kdcache.progress import Progress, counted, show
from kdcache.store.cache import read_manifest
from kdcache.store.convert import convert
from kdcache.store.files import Root

__all__ = ["convert_cache"]


def convert_cache(source: str, target: str, backend: str, *, force: bool = False) -> None:
    """Writes target and says how its size compares. Raises KdcacheError as kdcache.store.convert does."""
    before = read_manifest(Root(source)).totals
    with Progress(before.shards, "shards", "convert") as progress:
        manifest = convert(source, target, backend, progress.advance, force=force)
    after = manifest.totals
    show(
        f"{target}: {counted(after.shards, 'shard')}, {after.bytes / 1e6:,.2f} MB "
        f"({source}: {before.bytes / 1e6:,.2f} MB)"
    )
