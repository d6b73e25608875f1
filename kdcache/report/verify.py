"""`kdcache verify`: read every byte of a cache, name what is damaged."""

from kdcache.errors import CacheError
from kdcache.progress import Progress, counted
from kdcache.store.cache import read_manifest
from kdcache.store.files import Root
from kdcache.store.verify import verify

__all__ = ["verify_cache"]


def verify_cache(path: str) -> None:
    """Prints a line for each fault, or one that all is well. Raises CacheError when something is wrong."""
    totals = read_manifest(Root(path)).totals
    with Progress(totals.shards, "shards", "verify") as progress:
        faults = verify(path, progress.advance)
    for fault in faults:
        print(fault.what if fault.shard in fault.what else f"{fault.shard}: {fault.what}")
    if faults:
        files = len({fault.shard for fault in faults})
        raise CacheError(
            f"{path}: {counted(files, 'file')} damaged, expected none; delete them and dump again, "
            "or copy them again from where they came"
        )
    print(f"{path}: {counted(totals.shards, 'shard')}, {totals.bytes / 1e6:,.2f} MB, every digest and count is right")
