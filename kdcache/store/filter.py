"""Filter a cache: the examples of which an expression is true, in their order, as a cache of their own.

The examples of some consecutive shards of the source become one unit, as soon as they take half of what its shards
take on the mean: so a cache of which little stays has fewer shards, and one of which all stays the same ones. A commit
record says which examples its shard has (`taken`), and so where a killed filter goes on.

A shard is read once, block by block, and decoded; what stays is encoded anew. Only what an expression asks is computed.
"""

import hashlib
import os
from collections.abc import Iterator

import numpy as np

from kdcache.errors import CacheError
from kdcache.store.asked import Examples
from kdcache.store.batch import Batch, concat
from kdcache.store.blocks import COUNTED
from kdcache.store.builder import CacheBuilder
from kdcache.store.cache import Cache
from kdcache.store.limits import array_bytes
from kdcache.store.manifest import Manifest, difference
from kdcache.store.rewrite import (
    Progress,
    encoded_anew,
    found_finished,
    open_source,
    output_of,
    rewrite,
    source_pin,
)
from kdcache.store.taken import numbers_of, taken_text
from kdcache.store.unit import EXAMPLES_PER_UNIT
from kdcache.store.where import Where

__all__ = ["filter_cache"]


def filter_cache(
    source: str | os.PathLike[str],
    target: str | os.PathLike[str],
    where: str,
    progress: Progress | None = None,
    *,
    force: bool = False,
) -> Manifest:
    """Write the examples of a cache for which an expression is true, in their order, as another cache.

    An interrupted filter goes on where it was, and one that is done stays. The header of the new cache says under
    `sources` which cache it is of, and the expression.

    Args:
        source: A finished cache: folder or URL.
        target: The new cache: folder or URL.
        where: The expression (where.py).
        progress: Called with how many shards of the source are done with each step.
        force: Write into a folder that is not ours, or in which somebody writes.

    Raises:
        CacheError: No example with a supervised position stays, or the target is another finished cache.
        ConfigError: The expression is none, or asks what the cache does not say; the target is not ours or not apart
            from the source.
        DamagedShardError: A shard of the source is not what was committed.
        LockedError: Somebody writes to the target.
    """
    output = output_of(target, "filter", {"CACHE": source}, "--out", force=force)
    cache = open_source(source)
    asked = Where(where, cache.manifest.header)
    settings = encoded_anew(cache.manifest.header)
    settings = settings.model_copy(update={"sources": (source_pin(cache, asked.text),)})
    found = found_finished(output, lambda there: difference(there.header.settings, settings) is None)
    if found is not None:
        return found
    return rewrite(output, settings, cache, lambda builder: _units(cache, asked, builder), progress=progress)


def _units(cache: Cache, where: Where, builder: CacheBuilder) -> Iterator[int]:
    """Commit the units that are missing; gives how many shards were read or passed over."""
    done, enough = _ends(builder), _enough(cache)
    shard = unit = 0
    gathered = _Gathered()
    while shard < len(cache.shard_examples):
        if unit in done and not gathered.batches:
            yield done[unit] - shard
            shard, unit = done[unit], unit + 1
            continue
        if gathered.examples + int(cache.shard_examples[shard]) > EXAMPLES_PER_UNIT:
            unit = gathered.commit(builder, unit)
        gathered.add(cache, where, shard)
        shard += 1
        if gathered.bytes >= enough:
            unit = gathered.commit(builder, unit)
        yield 1
    if gathered.batches:
        gathered.commit(builder, unit)
    if not builder.commits().positions:
        raise CacheError(
            f"got --where {where.text!r}, which is true of no example with a supervised position among the "
            f"{len(cache):,} of {cache.root.url}, expected one at least: nothing is left to learn from"
        )


class _Gathered:
    """What stays of some consecutive shards, until it is a unit."""

    def __init__(self) -> None:
        self._clear()

    def _clear(self) -> None:
        self.batches: list[Batch] = []
        self.lines: list[str] = []
        self.examples = self.bytes = 0
        self._source = hashlib.sha256()

    def add(self, cache: Cache, where: Where, shard: int) -> None:
        """Read a shard, and keep what is chosen of it."""
        commit, first, kept = cache.manifest.shards[shard], 0, list[np.ndarray]()
        for block in range(len(commit.blocks)):
            batch = cache.read_block(shard, block)
            chosen = np.flatnonzero(where.chosen(Examples(cache.manifest.header, batch, shard, first)))
            if len(chosen):
                self.batches.append(batch if len(chosen) == len(batch) else batch.take(chosen))
                self.bytes += self.batches[-1].nbytes
                kept.append(first + chosen)
            first += len(batch)
        if kept:
            self.lines.append(taken_text(shard, np.concatenate(kept)))
            self.examples += sum(map(len, kept))
            self._source.update(f"{commit.sha256} {self.lines[-1]}\n".encode())

    def commit(self, builder: CacheBuilder, unit: int) -> int:
        """Commit it as this unit; the number of the next one."""
        arrays = concat(self.batches).arrays
        builder.commit(unit, arrays, source_sha256=self._source.hexdigest(), taken=self.lines)
        self._clear()
        return unit + 1


def _ends(builder: CacheBuilder) -> dict[int, int]:
    """Committed unit -> the first shard of the source that it has nothing of."""
    return {unit: numbers_of(lines[-1])[0] + 1 for unit, lines in builder.commits().taken().items()}


def _enough(cache: Cache) -> int:
    """How many bytes of arrays make a unit."""
    header, shards = cache.manifest.header, cache.manifest.shards
    totals = cache.manifest.totals
    sizes = {level: getattr(totals, name) for name, level in COUNTED.items()}
    return array_bytes(header.fields, sizes) // max(1, 2 * len(shards))
