"""The weighted mean of several teachers' probabilities over one corpus, as one cache.

At each position p = Σ w_k p_k at T = 1, w_k the weight of a teacher over the sum of all, computed in float64 from what
the caches know of every class and recorded as the logits log p. What a task's outputs mean, the task says: of a
classification whose classes do not exclude each other each class' probability is such a mean, and of a regression the
scores are. Records of the new cache are made as a dump makes them, of the same example numbers and the seed of the
first cache, so the same caches give the same bytes.

Dense and factored records know every class. Others keep a sample or the largest entries: the union of theirs with
weights Σ w_k p_k / π_k would be unbiased, and no record holds it, since a stored entry's weight follows from its own
logit. They are refused.

The shards are those of the first cache; of the others only the examples count. Time: a mean over the classes of each
position, 3 ms per teacher and position of 49,152 classes, where factored records take most of it for their product
with the basis.

K teachers, P positions, V classes.
"""

import math
import os
from collections.abc import Iterator, Mapping, Sequence
from functools import partial
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcache.errors import CacheError, ConfigError
from kdcache.store.alike import check_alike
from kdcache.store.backend import array_fields
from kdcache.store.batch import Batch
from kdcache.store.builder import CacheBuilder, library_versions
from kdcache.store.cache import Cache
from kdcache.store.manifest import Header, Manifest, TeacherPin, difference
from kdcache.store.rewrite import Progress, found_finished, open_source, output_of, places_of, rewrite, source_pin
from kdcache.store.unit import EXAMPLES_PER_UNIT
from kdcache.targets.fields import COUNTS, Field
from kdcache.targets.kind import RecordKind
from kdcache.targets.records import record_fields, record_kinds
from kdcache.tasks.registry import task_of

if TYPE_CHECKING:
    from kdcache.targets.teacher_rows import TeacherRows

__all__ = ["ensemble"]

FIRST = 64
"""Examples that are compared before anything is written."""
NUMBERS = 1 << 22
"""Of all teachers, in memory at one time."""


def ensemble(
    sources: Sequence[str | os.PathLike[str]],
    target: str | os.PathLike[str],
    weights: Sequence[float] | None = None,
    record: RecordKind | Mapping[str, Any] | None = None,
    progress: Progress | None = None,
    *,
    force: bool = False,
) -> Manifest:
    """Write the weighted mean of several teachers' probabilities as one cache.

    An interrupted one goes on where it was, and one that is done stays.

    Args:
        sources: Two finished caches or more of the same examples: folders or URLs, with dense or factored records.
        target: The new cache: folder or URL.
        weights: One for each, above 0; by default all count alike.
        record: What the new cache keeps, as in a settings file; by default what the first cache keeps.
        progress: Called with 1 after each shard.
        force: Write into a folder that is not ours, or in which somebody writes.

    Raises:
        CacheError: The caches do not fit together, their records do not know every class, or the target is another
            finished cache.
        ConfigError: A weight or the record is not right, the same cache is given twice, or the target is not ours.
        DamagedShardError: A shard of a source is not what was committed.
        LockedError: Somebody writes to the target.
    """
    if len(sources) < 2:
        raise ConfigError(f"got {len(sources)} cache for an ensemble, expected two or more, one for each teacher")
    shares_K = _shares(weights, len(sources))
    inputs = {f"CACHE {number}": path for number, path in enumerate(sources, 1)}
    output = output_of(target, "ensemble", inputs, "--out", force=force)
    caches = [open_source(path) for path in sources]
    _check_fit(caches)
    header = _header(caches, shares_K, _kind(caches[0], record))
    found = found_finished(output, lambda there: difference(there.header, header) is None)
    if found is not None:
        return found
    return rewrite(
        output,
        header,
        caches[0],
        partial(_units, caches, shares_K),
        corpus=caches[0].manifest.corpus,
        where=places_of(caches[:1]),
        progress=progress,
    )


def _shares(weights: Sequence[float] | None, count: int) -> list[float]:
    given = [1.0] * count if weights is None else [*weights]
    if len(given) != count:
        raise ConfigError(f"got {len(given)} weights for {count} caches, expected one for each, in their order")
    for weight in given:
        if not 0 < weight < math.inf:
            raise ConfigError(f"got weight {weight:g}, expected a finite number above 0; leave the cache out instead")
    return [weight / math.fsum(given) for weight in given]


def _check_fit(caches: Sequence[Cache]) -> None:
    first = caches[0]
    for number, cache in enumerate(caches):
        url, kind = cache.root.url, cache.manifest.header.distribution
        if kind is None:
            raise CacheError(f"{url} holds no teacher's distributions, expected dense or factored records of one")
        for other in caches[:number]:
            if other.digest == cache.digest:
                raise ConfigError(
                    f"got {url}, which is the same cache as {other.root.url}: expected each of them once; give it a "
                    "larger weight"
                )
        if not cache.read(0, min(1, len(cache))).targets().knows_every_class:
            raise CacheError(
                f"{url} holds {kind.kind} records, which keep a part of each distribution, so that the mean with "
                "others is no record; expected dense or factored ones: dump it again with record.kind dense or factored"
            )
        if number:
            names = f"{url} and {first.root.url} are no ensemble"
            check_alike(first, cache, names)
            for what, there, here in (
                ("examples", len(cache), len(first)),
                ("tokens", cache.manifest.totals.tokens, first.manifest.totals.tokens),
                ("positions", cache.num_positions, first.num_positions),
            ):
                if there != here:
                    raise CacheError(
                        f"{names}: the one has {there:,} {what}, the other {here:,}, expected the same examples in the "
                        "same order: dump both with the same corpus and task"
                    )
            some = min(len(first), FIRST)
            _check_same(first, cache, first.read(0, some), cache.read(0, some), 0)


def _kind(first: Cache, record: RecordKind | Mapping[str, Any] | None) -> RecordKind:
    """What is kept of the mean. Raises ConfigError for what cannot be made of probabilities."""
    header = first.manifest.header
    kinds = (header.distribution,) if record is None else record_kinds(record)
    kind, task = kinds[0] if len(kinds) == 1 else None, task_of(header.task)
    if kind is None or not kind.distribution:
        raise ConfigError(f"got record {record}, expected one kind of distribution, such as {{kind: sampled}}")
    if kind.calibrated:
        raise ConfigError(
            f"got record {kind.kind}{'' if record else f', that of {first.root.url}'}, expected one that needs no "
            "output layer, since several teachers have none together: give --record '{kind: sampled}', or "
            "'{kind: dense}' to keep every class"
        )
    if fault := kind.misfit(few_classes=task.every_class, whole_examples=task.one_position):
        raise ConfigError(f"record: {fault}")
    return kind


def _header(caches: Sequence[Cache], shares_K: Sequence[float], kind: RecordKind) -> Header:
    first = caches[0].manifest.header
    pins = zip(caches, shares_K, strict=True)
    names = (
        cache.manifest.header.teacher.name if cache.manifest.header.teacher else cache.digest[:12] for cache in caches
    )
    means = ", ".join(f"{share:.4g} {name}" for name, share in zip(names, shares_K, strict=True))
    return first.settings.model_copy(
        update={
            "records": (kind,),
            "fields": (*_plain_fields(first), *record_fields((kind,), first.num_classes)),
            "teacher": TeacherPin(name=f"the mean of {means}"),
            "compute": {},
            "libraries": library_versions(first.backend, teacher=True),
            "sources": tuple(source_pin(cache).model_copy(update={"weight": share}) for cache, share in pins),
        }
    )


def _plain_fields(header: Header) -> tuple[Field, ...]:
    """The arrays of a cache that are no records."""
    of_records = {field.name for field in record_fields(header.records, header.num_classes, width=1, rank=1)}
    return tuple(field for field in header.fields if field.name not in of_records)


def _units(caches: Sequence[Cache], shares_K: Sequence[float], builder: CacheBuilder) -> Iterator[int]:
    """Commit the shards that are missing; gives 1 after each."""
    first, done, start = caches[0], builder.committed(), 0
    for unit, shard in enumerate(first.manifest.shards):
        if unit not in done:
            batches = [first.read_shard(unit), *(c.read(start, start + shard.examples) for c in caches[1:])]
            for cache, batch in zip(caches[1:], batches[1:], strict=True):
                _check_same(first, cache, batches[0], batch, start)
            builder.commit(
                unit,
                _arrays(builder.header, unit, batches, shares_K),
                source_sha256=shard.source_sha256,
                notes=shard.notes,
                skipped=shard.skipped or (),
                made_under=shard.made_under,
            )
        start += shard.examples
        yield 1


def _check_same(first: Cache, other: Cache, ours: Batch, theirs: Batch, start: int) -> None:
    """Raises CacheError, naming the first example that is another one. start: the number of the first one here."""
    fields = array_fields(_plain_fields(first.manifest.header))
    if all(_same(ours.arrays[f.name], theirs.arrays.get(f.name)) for f in fields):
        return
    for i in range(len(ours)):
        one, two = ours.slice(i, i + 1), theirs.slice(i, i + 1)
        name = next((f.name for f in fields if not _same(one.arrays[f.name], two.arrays.get(f.name))), None)
        if name is not None:
            raise CacheError(
                f"{other.root.url} and {first.root.url} are no ensemble: their example {start + i} has other "
                f"{name.replace('_', ' ')}, expected the same examples in the same order: dump both with the same "
                "corpus and task"
            )


def _same(ours: np.ndarray, theirs: np.ndarray | None) -> bool:
    """Whether the numbers are; NaN, a score that nobody knows, is itself."""
    return theirs is not None and np.array_equal(ours, theirs, equal_nan=ours.dtype.kind == "f")


def _arrays(header: Header, unit: int, batches: Sequence[Batch], shares_K: Sequence[float]) -> dict[str, np.ndarray]:
    """The arrays of a shard: those of the first cache that are no records, and the records of the mean."""
    from kdcache.targets.recorder import Recorder

    first, recorder = batches[0], Recorder(header.records)
    parts = [recorder.arrays(rows) for rows in _rows(header, unit, batches, shares_K)]
    dtypes = {field.name: field.dtype for field in array_fields(header.fields)}
    own = {field.name for field in array_fields(header.fields)} & first.arrays.keys() - parts[0].keys()
    joined = {name: np.concatenate([part[name] for part in parts]).astype(dtypes[name]) for name in parts[0]}
    return {name: first.arrays[name] for name in own - {COUNTS["entry"]}} | joined


def _rows(header: Header, unit: int, batches: Sequence[Batch], shares_K: Sequence[float]) -> Iterator["TeacherRows"]:
    """What the teachers say together at the positions of a shard, some at a time; once at least."""
    import torch

    from kdcache.targets.teacher_rows import TeacherRows

    task, first = task_of(header.task), batches[0]
    counts_B = first.arrays["position_counts"].astype(np.int64)
    keys_P3 = np.empty((first.num_positions, 3), np.int64)
    keys_P3[:, 0] = header.seed
    keys_P3[:, 1] = np.repeat(np.arange(len(first)) + unit * EXAMPLES_PER_UNIT, counts_B)
    keys_P3[:, 2] = first.arrays["positions"]
    labels_P, targets = first.labels, [batch.targets() for batch in batches]
    most = max(1, NUMBERS // (len(batches) * header.num_classes))
    with torch.no_grad():
        for start in range(0, max(len(keys_P3), 1), most):
            part = slice(start, start + most)
            outputs_KPC = torch.stack([task.teacher_outputs(one[part]).double() for one in targets])
            logits_PC = task.mean_of_teachers(outputs_KPC, shares_K).float()
            yield TeacherRows(logits_PC, labels_P[part], keys_P3[part])
