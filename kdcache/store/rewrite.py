"""A new cache of finished ones, unit by unit: what `convert`, `merge` and `filter` have in common.

Each says which header the new cache has and what its units are; here it is begun, gone on with after a kill, and
finished. What is there already of the same header stays.

A shard is copied as it is where it may be: its bytes but for its stamp, which says of what cache and which unit it is.
Zarr keeps its stamps apart from the compressed chunks; an Arrow shard, or one of another backend, of other blocks or of
another version of the codec, is decoded and encoded again. Copying takes .10 of the CPU time
of that, 13 times as much as reading and writing the same bytes (tests/bench/caches.py).
"""

import os
from collections.abc import Callable, Iterator, Sequence
from contextlib import closing

from kdcache.errors import CacheError
from kdcache.progress import counted, say
from kdcache.store.backend import Restamps, backend, backend_versions
from kdcache.store.batch import concat
from kdcache.store.builder import OF_EVERY_BACKEND, CacheBuilder
from kdcache.store.cache import Cache, open_cache, read_manifest
from kdcache.store.files import Root
from kdcache.store.manifest import CommitRecord, CorpusPin, Header, Manifest, SourcePin
from kdcache.store.output import CacheOutput
from kdcache.store.parallel import in_order
from kdcache.store.shard import decode_shard, fetch_shard
from kdcache.store.skipped import read_skipped

__all__ = [
    "PlaceOf",
    "Progress",
    "can_copy",
    "copy_shards",
    "encoded_anew",
    "found_finished",
    "open_source",
    "output_of",
    "places_of",
    "rewrite",
    "source_pin",
    "versions_of",
]

Progress = Callable[[int], object]
PlaceOf = Callable[[int, int], str]


def output_of(
    target: str | os.PathLike[str], doing: str, sources: dict[str, str | os.PathLike[str]], setting: str, *, force: bool
) -> CacheOutput:
    """PlaceOf the new cache goes, checked: nothing is written.

    Args:
        target: Folder or URL.
        doing: The command.
        sources: The caches that it reads, by what the user calls each.
        setting: What the user calls the target.
        force: Write into a folder that is not ours, or in which another command writes.

    Raises:
        ConfigError: It is not ours, or not apart from a source.
    """
    inputs = {name: [] if (folder := Root(path).local) is None else [folder] for name, path in sources.items()}
    output = CacheOutput(target, doing, inputs, force=force, setting=setting)
    output.check()
    return output


def open_source(path: str | os.PathLike[str]) -> Cache:
    """A finished cache that is read once, and so not kept on the local disk. Raises CacheError as `open_cache` does."""
    return open_cache(path, local_cache_gb=0)


def source_pin(cache: Cache, where: str | None = None) -> SourcePin:
    """What a new cache says of one that it was made of. where: which of its examples were taken."""
    manifest, header = cache.manifest, cache.manifest.header
    return SourcePin(
        cache_sha256=manifest.digest(),
        shards=manifest.totals.shards,
        examples=manifest.totals.examples,
        teacher=header.teacher,
        corpus=manifest.corpus,
        seed=header.seed,
        compute=header.compute,
        libraries=header.libraries,
        where=where,
        sources=header.sources,
    )


def found_finished(output: CacheOutput, same: Callable[[Manifest], bool]) -> Manifest | None:
    """The finished cache that is there already, None without one. same: whether it is the one that would be made.

    Raises CacheError where it is another.
    """
    root = Root(output.path)
    if not root.exists("cache.json"):
        return None
    found = read_manifest(root)
    if not same(found):
        raise CacheError(f"{os.fspath(output.path)} already holds another finished cache, expected a new folder")
    say(f"{os.fspath(output.path)} is finished already: {counted(len(found.shards), 'shard')}; nothing to do")
    return found


def rewrite(
    output: CacheOutput,
    header: Header,
    source: Cache,
    units: Callable[[CacheBuilder], Iterator[int]],
    *,
    corpus: CorpusPin | None = None,
    where: PlaceOf = lambda unit, row: "?",
    progress: Progress | None = None,
) -> Manifest:
    """Make the new cache, or go on with it.

    Args:
        output: PlaceOf it goes.
        header: Its header, without what comes with a basis.
        source: Gives the tokenizer's files and the basis.
        units: Commits the units that are missing, and gives how many shards of sources are done with each.
        corpus: What it is made of in the end, where that is one corpus.
        where: (unit, row) -> place of a row that was left out.
        progress: Called with what `units` gives.

    Raises:
        CacheError: The folder holds shards of other settings, or nothing would be in the new cache.
        LockedError: Somebody writes there.
    """
    pin = source.manifest.header.basis
    with CacheBuilder(
        output,
        header,
        f"{source.root.url}/tokenizer",
        make_basis=lambda: (source.basis, None if pin is None else pin.calibration),
    ) as builder:
        for done in units(builder):
            if progress:
                progress(done)
        return builder.finalize(len(builder.commits()), corpus=corpus, where=where)


def can_copy(source: Header, header: Header) -> bool:
    """Whether a shard under one header may stand under the other with another stamp alone."""
    alike = (source.backend, source.block_examples) == (header.backend, header.block_examples)
    store = backend(header.backend)
    versions = all(source.libraries.get(name) == header.libraries.get(name) for name in store.libraries)
    return alike and versions and isinstance(store, Restamps)


def versions_of(sources: Sequence[Header], header: Header) -> dict[str, str]:
    """The libraries of a header whose backend and blocks are decided: of the backend the versions that write its bytes.

    These are the installed ones, unless every shard can be copied as it is. Of the others those on which all agree.
    """
    names = {name for source in sources for name in backend(source.backend).libraries} - {*OF_EVERY_BACKEND}
    first = sources[0]
    kept = {
        name: number
        for name, number in first.libraries.items()
        if name not in names and all(source.libraries.get(name) == number for source in sources)
    }
    theirs = {name: first.libraries[name] for name in backend(header.backend).libraries if name in first.libraries}
    as_they_are = header.model_copy(update={"libraries": kept | theirs})
    if all(can_copy(source, as_they_are) for source in sources):
        return as_they_are.libraries
    return kept | backend_versions(header.backend)


def encoded_anew(source: Header) -> Header:
    """The settings of a cache whose shards are made of those of another, in the same backend."""
    own = backend_versions(source.backend)
    return source.settings.model_copy(update={"libraries": {**source.libraries, **own}})


def copy_shards(caches: Sequence[Cache], builder: CacheBuilder) -> Iterator[int]:
    """Every shard of some caches, one cache after the other, as the next unit; gives 1 after each."""
    done = builder.committed()
    places = [(cache, index) for cache in caches for index in range(len(cache.shard_examples))]
    yield from (1 for unit in range(len(places)) if unit in done)

    def fetched(unit: int) -> bytes:
        cache, index = places[unit]
        return fetch_shard(cache.root, cache.manifest.header, cache.manifest.shards[index])

    with closing(in_order(fetched, (unit for unit in range(len(places)) if unit not in done), 1, ahead=1)) as read:
        for unit, data in read:
            cache, index = places[unit]
            _copy(builder, unit, cache, cache.manifest.shards[index], data)
            yield 1


def _copy(builder: CacheBuilder, unit: int, cache: Cache, shard: CommitRecord, data: bytes) -> None:
    source = cache.manifest.header
    if can_copy(source, builder.header):
        builder.commit_copy(unit, cache.root, source, shard, data)
        return
    builder.commit(
        unit,
        concat([*decode_shard(cache.root, source, shard, data)]).arrays,
        source_sha256=shard.source_sha256,
        notes=shard.notes,
        skipped=shard.skipped or (),
        made_under=shard.made_under,
        taken=shard.taken or (),
        score=shard.score,
    )


def places_of(caches: Sequence[Cache]) -> PlaceOf:
    """(unit, row) -> place of a row that was left out, of the shards of these caches one after the other."""
    known: dict[tuple[int, int], str] = {}
    first = 0
    for cache in caches:
        found = read_skipped(cache.root, cache.manifest)
        known |= {(first + unit, row): place for (unit, row), (place, _) in found.items()}
        first += len(cache.shard_examples)
    return lambda unit, row: known.get((unit, row), "?")
