"""Of which caches and corpora a cache's examples are, and whether two caches share some, as their headers say it."""

from collections.abc import Iterable, Mapping
from dataclasses import dataclass, field

import numpy as np

from kdcache.store.cache import Cache
from kdcache.store.commits import Scan
from kdcache.store.manifest import SourcePin
from kdcache.store.taken import numbers_of

__all__ = ["Lineage", "lineage", "shared"]


@dataclass(frozen=True)
class Lineage:
    """Digests of what a cache was made of, itself included, each with whether all of its examples are in the cache.

    Attributes:
        caches: Digests of caches.
        corpora: Digests of corpora.
    """

    caches: dict[str, bool] = field(default_factory=dict)
    corpora: dict[str, bool] = field(default_factory=dict)


def lineage(cache: Cache) -> Lineage:
    """What a cache was made of, through all that was merged, filtered or averaged."""
    found, corpus = Lineage(), cache.manifest.corpus
    found.caches[cache.digest] = True
    if corpus is not None:
        found.corpora[corpus.sha256] = True
    _add(found, cache.manifest.header.sources or (), whole=True)
    return found


def _add(found: Lineage, sources: Iterable[SourcePin], *, whole: bool) -> None:
    for pin in sources:
        all_of_it = whole and pin.where is None
        known = [(found.caches, pin.cache_sha256)]
        known += [] if pin.corpus is None else [(found.corpora, pin.corpus.sha256)]
        for wholes, digest in known:
            wholes[digest] = wholes.get(digest, False) or all_of_it
        _add(found, pin.sources or (), whole=all_of_it)


def shared(one: Cache, other: Cache) -> str | None:
    """How two caches have examples of the same text, as a verb with what follows it; None where nothing says so.

    What two filtered caches took of the same one is compared example by example. Of parts that were taken otherwise
    nobody can tell from the headers.
    """
    first, second = lineage(one), lineage(other)
    if words := _in_both(first.caches, second.caches, "cache"):
        ours, theirs = _part_of(one), _part_of(other)
        if ours is None or theirs is None or ours.cache_sha256 != theirs.cache_sha256:
            return words
        common = _number_in_common(one, other)
        return f"holds {common:,} examples of the same cache ({ours.cache_sha256[:12]})" if common else None
    return _in_both(first.corpora, second.corpora, "corpus")


def _in_both(ours: Mapping[str, bool], theirs: Mapping[str, bool], what: str) -> str | None:
    common = [digest for digest in ours if digest in theirs]
    for digest in common:
        if ours[digest] or theirs[digest]:
            return f"holds examples of the same {what} ({digest[:12]})"
    return f"may hold examples of the same {what} ({common[0][:12]}), of which both are parts" if common else None


def _part_of(cache: Cache) -> SourcePin | None:
    """The one cache that it was filtered of."""
    sources = cache.manifest.header.sources or ()
    return sources[0] if len(sources) == 1 and sources[0].where is not None else None


def _number_in_common(one: Cache, other: Cache) -> int:
    ours, theirs = _taken(one), _taken(other)
    return sum(len(np.intersect1d(ours[unit], theirs[unit])) for unit in ours.keys() & theirs.keys())


def _taken(cache: Cache) -> dict[int, np.ndarray]:
    """Unit of the source -> the numbers of the examples in it that were taken."""
    lines = Scan(cache.root, cache.manifest.header).commits().taken().values()
    found: dict[int, list[np.ndarray]] = {}
    for unit, numbers in (numbers_of(line) for of_shard in lines for line in of_shard):
        found.setdefault(unit, []).append(numbers)
    return {unit: np.concatenate(parts) for unit, parts in found.items()}
