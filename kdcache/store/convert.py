"""Convert a cache from one backend to another: same examples, same records, another file format."""

import os

from kdcache.store.blocks import BlockExamples
from kdcache.store.cache import Cache
from kdcache.store.manifest import Header, Manifest, difference
from kdcache.store.rewrite import (
    Progress,
    copy_shards,
    found_finished,
    open_source,
    output_of,
    places_of,
    rewrite,
    versions_of,
)

__all__ = ["convert"]

OF_THE_CONTENT = ("examples", "tokens", "documents", "positions", "entries", "source_sha256")
"""The columns of the table that a conversion keeps."""


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    backend: str,
    progress: Progress | None = None,
    *,
    block_examples: BlockExamples | None = None,
    force: bool = False,
) -> Manifest:
    """Write the cache at `source` to `target` with this backend, shard by shard; both may be URLs.

    An interrupted conversion goes on where it was, and one that is done stays. progress: called with 1 after each
    shard. block_examples: how many examples are read at once, by default as in the source.
    force: write into a folder that is not ours, or in which somebody writes.
    Raises CacheError where target is another finished cache, ConfigError for an unknown backend and for a target that
    is not ours or not apart from the source, LockedError where somebody writes there, DamagedShardError for a bad shard
    of the source.
    """
    output = output_of(target, "convert", {"SOURCE": source}, "TARGET", force=force)
    cache = open_source(source)
    header = cache.manifest.header
    blocks = header.block_examples if block_examples is None else block_examples
    settings = header.settings.model_copy(update={"backend": backend, "block_examples": blocks})
    settings = settings.model_copy(update={"libraries": versions_of([header], settings)})
    found = found_finished(output, lambda there: _same(cache, there, settings))
    if found is not None:
        return found
    return rewrite(
        output,
        settings,
        cache,
        lambda builder: copy_shards([cache], builder),
        corpus=cache.manifest.corpus,
        where=places_of([cache]),
        progress=progress,
    )


def _same(cache: Cache, found: Manifest, header: Header) -> bool:
    """Whether a finished cache is this conversion, done."""
    there, here = found.shards.table, cache.manifest.shards.table
    same = (found.corpus, found.totals.score) == (cache.manifest.corpus, cache.manifest.totals.score)
    same = same and len(there) == len(here) and there.besides == here.besides
    same = same and all(there[name].tobytes() == here[name].tobytes() for name in OF_THE_CONTENT)
    return same and difference(found.header.settings, header) is None
