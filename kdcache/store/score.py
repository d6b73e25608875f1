"""What the teacher's own records score on the labels: sums over the positions of a shard, and the verdict of them all.

Computed of what is stored, in float64 and whole numbers, so that they are the same at every world size, whoever writes.
Which sums these are, the task says.
"""

from collections.abc import Iterator, Mapping

import numpy as np

from kdcache.store.batch import Batch
from kdcache.store.manifest import Header, Manifest
from kdcache.tasks.registry import task_of
from kdcache.tasks.score import Score, Verdict

__all__ = ["parts_of", "teacher_verdict", "unit_score"]

_VALUES = 1 << 24


def unit_score(header: Header, arrays: Mapping[str, np.ndarray]) -> Score | None:
    """None of a shard without labels or records, or whose records do not answer T = 1."""
    kind = header.distribution
    if kind is None or not kind.answers(1.0):
        return None
    batch = Batch(header.fields, dict(arrays), header.records, header.num_classes)
    try:
        width = kind.numbers_per_position(header.num_classes)
        return task_of(header.task).score(parts_of(batch, width), header.num_classes)
    except (IndexError, ValueError):  # arrays made elsewhere that do not fit together: `verify` says how
        return None


def teacher_verdict(manifest: Manifest) -> Verdict | None:
    """The teacher's score in words; None where the cache has no labels, no teacher, or records without T = 1."""
    score, header = manifest.totals.score, manifest.header
    if score is None:
        return None
    return task_of(header.task).verdict(score, header.class_names, header.num_classes)


def parts_of(batch: Batch, width: int) -> Iterator[Batch]:
    """Some examples at a time, so that their records in memory take some 100 MB. width: numbers per position."""
    ends = batch.arrays["position_counts"].cumsum(dtype=np.int64)
    start = 0
    while start < len(batch):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _VALUES // width, side="right")))
        yield batch.slice(start, stop)
        start = stop
