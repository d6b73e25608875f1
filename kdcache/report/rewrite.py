"""`kdcache convert`, `merge`, `filter` and `ensemble`: new caches of finished ones, with progress and their sizes."""

from collections.abc import Collection, Sequence
from typing import Any

from kdcache.progress import Progress, counted, show
from kdcache.store.cache import read_manifest
from kdcache.store.convert import convert
from kdcache.store.ensemble import ensemble
from kdcache.store.files import Root
from kdcache.store.filter import filter_cache
from kdcache.store.manifest import Manifest, Totals
from kdcache.store.merge import merge

__all__ = ["convert_cache", "ensemble_caches", "keep_examples", "merge_caches"]


def convert_cache(source: str, target: str, backend: str, *, force: bool = False) -> None:
    """Writes target and says how its size compares. Raises KdcacheError as kdcache.store.convert does."""
    before = read_manifest(Root(source)).totals
    with Progress(before.shards, "shards", "convert") as progress:
        manifest = convert(source, target, backend, progress.advance, force=force)
    _tell(target, manifest, {source: before})


def merge_caches(sources: Sequence[str], target: str, *, allow: Collection[str] = (), force: bool = False) -> None:
    """Writes target and says what it holds of which source. Raises KdcacheError as kdcache.store.merge does."""
    before = {source: read_manifest(Root(source)).totals for source in sources}
    with Progress(sum(totals.shards for totals in before.values()), "shards", "merge") as progress:
        manifest = merge(sources, target, progress.advance, allow=allow, force=force)
    _tell(target, manifest, before)


def keep_examples(source: str, target: str, where: str, *, force: bool = False) -> None:
    """Writes target and says how many examples stay. Raises KdcacheError as kdcache.store.filter does."""
    before = read_manifest(Root(source)).totals
    with Progress(before.shards, "shards", "filter") as progress:
        manifest = filter_cache(source, target, where, progress.advance, force=force)
    _tell(target, manifest, {source: before})
    after = manifest.totals
    share = after.examples / before.examples
    show(
        f"{after.examples:,} of {counted(before.examples, 'example')} stay ({share:.1%}), with {after.positions:,} of "
        f"{counted(before.positions, 'position')}"
    )


def ensemble_caches(
    sources: Sequence[str],
    target: str,
    *,
    weights: Sequence[float] | None = None,
    record: Any = None,
    force: bool = False,
) -> None:
    """Writes target and says how its size compares. Raises KdcacheError as kdcache.store.ensemble does."""
    before = {source: read_manifest(Root(source)).totals for source in sources}
    with Progress(before[sources[0]].shards if sources else 0, "shards", "ensemble") as progress:
        manifest = ensemble(sources, target, weights, record, progress.advance, force=force)
    _tell(target, manifest, before)


def _tell(target: str, manifest: Manifest, before: dict[str, Totals]) -> None:
    after = manifest.totals
    of = ", ".join(f"{source}: {totals.bytes / 1e6:,.2f} MB" for source, totals in before.items())
    show(f"{target}: {counted(after.shards, 'shard')}, {after.bytes / 1e6:,.2f} MB ({of})")
