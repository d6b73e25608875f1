"""Merge caches to one: their shards one after the other, in the order in which they are given.

A shard keeps its blocks and its records, and gets another number: that of its unit in the new cache. So example numbers
stay unique. What a record was drawn with is its number in the cache that it came from, and that cache's seed: `origin`
gives both, from what the header says of the sources.
"""

import os
from collections.abc import Collection, Sequence

from kdcache.errors import CacheError, ConfigError
from kdcache.store.alike import kinds_in_words
from kdcache.store.backend import backend
from kdcache.store.cache import Cache
from kdcache.store.manifest import Header, Manifest, SourcePin, difference
from kdcache.store.rewrite import (
    Progress,
    copy_shards,
    found_finished,
    open_source,
    output_of,
    places_of,
    rewrite,
    source_pin,
    versions_of,
)

__all__ = ["ALLOWED", "merge", "origin"]

ALLOWED = ("teacher", "seed", "libraries")
"""Keys of the header that may differ where a user says so."""
SCHEMA = ("task", "num_classes", "id2label", "records", "tokenizer", "fields", "format_version")
"""Keys of the header that are the same in every cache that is merged."""


def merge(
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    progress: Progress | None = None,
    *,
    allow: Collection[str] = (),
    force: bool = False,
) -> Manifest:
    """Write the examples of several caches as one cache.

    An interrupted merge goes on where it was, and one that is done stays. The header of the new cache says under
    `sources` which caches it was made of, with the teacher, corpus, seed and settings of each; where they disagree,
    its own `teacher` is null and its `seed` that of the first.

    Args:
        sources: Two finished caches or more: folders or URLs.
        target: The new cache: folder or URL.
        progress: Called with 1 after each shard.
        allow: What may differ, of ALLOWED.
        force: Write into a folder that is not ours, or in which somebody writes.

    Raises:
        CacheError: The caches do not fit together, or the target is another finished cache.
        ConfigError: The target is not ours or not apart from a source; the same cache is given twice.
        DamagedShardError: A shard of a source is not what was committed.
        LockedError: Somebody writes to the target.
    """
    if unknown := [key for key in allow if key not in ALLOWED]:
        raise ConfigError(f"got --allow {unknown[0]}, expected one of {', '.join(ALLOWED)}")
    if len(sources) < 2:
        raise ConfigError(f"got {len(sources)} cache to merge, expected two or more")
    inputs = {f"CACHE {number}": path for number, path in enumerate(sources, 1)}
    output = output_of(target, "merge", inputs, "--out", force=force)
    caches = [open_source(path) for path in sources]
    _check_fit(caches, allow)
    header = _header([cache.manifest.header for cache in caches], tuple(map(source_pin, caches)))
    found = found_finished(output, lambda there: difference(there.header.settings, header) is None)
    if found is not None:
        return found
    return rewrite(
        output,
        header,
        caches[0],
        lambda builder: copy_shards(caches, builder),
        where=places_of(caches),
        progress=progress,
    )


def origin(header: Header, unit: int) -> tuple[SourcePin | None, int]:
    """Where a unit of a cache was made by a teacher.

    Args:
        header: Of the cache.
        unit: Its number in it.

    Returns:
        The cache that it was dumped to, None for this one, and its number there; of a shard of a filtered cache the
        source that was filtered, and a number that means nothing. The shards of an ensemble are its own.
    """
    found, sources = None, header.sources
    while sources and sources[0].weight is None:
        for found in sources:
            if unit < found.shards or found.where is not None:
                break
            unit -= found.shards
        assert found is not None
        sources = None if found.where is not None else found.sources
    return found, unit


def _check_fit(caches: Sequence[Cache], allow: Collection[str]) -> None:
    """Raises CacheError for caches that do not fit together, ConfigError for one that is given twice."""
    first, known = caches[0], dict[str, Cache]()
    for cache in caches:
        if (twin := known.get(cache.digest)) is not None:
            raise ConfigError(
                f"got {cache.root.url}, which is the same cache as {twin.root.url}: expected each of them once"
            )
        known[cache.digest] = cache
    for cache in caches[1:]:
        kinds, expected = kinds_in_words(cache.manifest.header), kinds_in_words(first.manifest.header)
        if kinds != expected:
            raise CacheError(
                f"{cache.root.url} does not fit {first.root.url}: it holds {kinds}, expected {expected}; caches that "
                "are merged have the same records, so dump one of them again"
            )
        if found := difference(first.manifest.header, cache.manifest.header, SCHEMA):
            key, here, there = found
            raise CacheError(
                f"{cache.root.url} does not fit {first.root.url}: its {key} is {_short(there)}, expected "
                f"{_short(here)}; caches that are merged have the same task, classes, tokenizer and record settings"
            )
        if not _same_basis(first, cache):
            raise CacheError(
                f"{cache.root.url} does not fit {first.root.url}: its records were calibrated on another basis, and a "
                "cache has one; expected caches of one dump, such as parts that were filtered out of it"
            )
    for cache in caches[1:]:
        found_at = {key: _difference(key, first.manifest.header, cache.manifest.header) for key in ALLOWED}
        differ = {key: found for key, found in found_at.items() if found and key not in allow}
        for key, here, there in differ.values():
            raise CacheError(
                f"{cache.root.url} and {first.root.url} differ in {' and '.join(differ)}: {key} is {_short(there)} "
                f"and {_short(here)}; where that is meant, give {' '.join(f'--allow {one}' for one in differ)}"
            )


def _same_basis(first: Cache, second: Cache) -> bool:
    if first.manifest.header.basis is None:
        return True
    a, b = first.basis, second.basis
    same = a.basis_VR.shape == b.basis_VR.shape and a.soft_cap == b.soft_cap
    return bool(same and (a.basis_VR == b.basis_VR).all() and (a.mean_V == b.mean_V).all())


def _difference(key: str, first: Header, second: Header) -> tuple[str, object, object] | None:
    """The first difference of two headers at this key, versions of backends left out: those that write count."""
    return difference(_without_backend(first), _without_backend(second), [key])


def _without_backend(header: Header) -> Header:
    own = backend(header.backend).libraries
    kept = {name: number for name, number in header.libraries.items() if name not in own}
    return header.model_copy(update={"libraries": kept})


def _header(headers: Sequence[Header], sources: tuple[SourcePin, ...]) -> Header:
    first = headers[0]
    one = all(difference(first, header, ["teacher"]) is None for header in headers)
    compute = {
        name: value
        for name, value in first.compute.items()
        if all(header.compute.get(name) == value for header in headers)
    }
    settings = first.settings.model_copy(
        update={"teacher": first.teacher if one else None, "compute": compute, "sources": sources}
    )
    return settings.model_copy(update={"libraries": versions_of(headers, settings)})


def _short(value: object) -> str:
    text = str(value)
    return text if len(text) <= 60 else f"{text[:57]}…"
