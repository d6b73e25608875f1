"""Convert a cache from one backend to another: same examples, same records, another file format."""

import os
from collections.abc import Callable

from kdcache.errors import CacheError
from kdcache.progress import counted, say
from kdcache.store.backend import backend_versions
from kdcache.store.blocks import BlockExamples
from kdcache.store.builder import CacheBuilder
from kdcache.store.cache import Cache, open_cache, read_manifest
from kdcache.store.files import Root
from kdcache.store.manifest import Header, Manifest, difference
from kdcache.store.output import CacheOutput
from kdcache.store.skipped import read_skipped

__all__ = ["convert"]

OF_THE_CONTENT = ("examples", "tokens", "documents", "positions", "entries", "source_sha256")
"""The columns of the table that a conversion keeps."""


def convert(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    backend: str,
    progress: Callable[[int], object] | None = None,
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
    inputs = {"SOURCE": [] if (folder := Root(source).local) is None else [folder]}
    output = CacheOutput(target, "convert", inputs, force=force, setting="TARGET")
    output.check()
    cache = open_cache(source, local_cache_gb=0)
    header = cache.manifest.header
    of_source = backend_versions(header.backend)
    libraries = {name: number for name, number in header.libraries.items() if name not in of_source}
    libraries |= backend_versions(backend)
    header = header.settings.model_copy(
        update={
            "backend": backend,
            "libraries": libraries,
            "block_examples": header.block_examples if block_examples is None else block_examples,
        }
    )
    pin = cache.manifest.header.basis
    if Root(target).exists("cache.json"):
        return _finished(cache, read_manifest(Root(target)), header, target)
    with CacheBuilder(
        output,
        header,
        f"{cache.root.url}/tokenizer",
        make_basis=lambda: (cache.basis, None if pin is None else pin.calibration),
    ) as builder:
        return _copy(cache, builder, progress)


def _finished(cache: Cache, found: Manifest, header: Header, target: str | os.PathLike[str]) -> Manifest:
    """What is at the target already. Raises CacheError where that is not this conversion, done."""
    there, here = found.shards.table, cache.manifest.shards.table
    same = (found.corpus, found.totals.score) == (cache.manifest.corpus, cache.manifest.totals.score)
    same = same and len(there) == len(here) and there.besides == here.besides
    same = same and all(there[name].tobytes() == here[name].tobytes() for name in OF_THE_CONTENT)
    if not same or difference(found.header.settings, header):
        raise CacheError(f"{os.fspath(target)} already holds another finished cache, expected a new folder")
    say(f"{os.fspath(target)} is finished already: {counted(len(found.shards), 'shard')}; nothing to do")
    return found


def _copy(cache: Cache, builder: CacheBuilder, progress: Callable[[int], object] | None) -> Manifest:
    done = builder.committed()
    for index, shard in enumerate(cache.manifest.shards):
        if index not in done:
            arrays = cache.read_shard(index).arrays
            builder.commit(
                index,
                arrays,
                source_sha256=shard.source_sha256,
                notes=shard.notes,
                skipped=shard.skipped or (),
                made_under=shard.made_under,
            )
        if progress:
            progress(1)
    skipped = read_skipped(cache.root, cache.manifest)
    return builder.finalize(
        len(cache.manifest.shards),
        corpus=cache.manifest.corpus,
        where=lambda unit, row: skipped[unit, row][0] if (unit, row) in skipped else "?",
    )
