"""What the arrays of a shard must be, beyond their dtypes and shapes, so that whatever reads them finds no surprise.

    examples   each has tokens; its documents fill it; its positions ascend inside it
    tokens     are the tokenizer's, labels the task's
    records    what their kinds say: ids of classes, no more certain entries than entries
    numbers    none is NaN, but for labels that are not known

Checked whenever a shard is decoded, in passes over whole arrays without copies of them: 1 to 5% of the time that
decoding takes (tests/bench/integrity.py).
"""

from collections.abc import Iterator, Mapping

import numpy as np

from kdcache.progress import counted
from kdcache.store.batch import Batch
from kdcache.store.manifest import Header
from kdcache.tasks.registry import task_of

__all__ = ["content_fault", "content_faults"]


def content_fault(header: Header, arrays: Mapping[str, np.ndarray]) -> str | None:
    """The first of `content_faults`, and how many more there are."""
    found = content_faults(header, arrays)
    first = next(found, None)
    more = sum(1 for _ in found)
    return f"{first}, and {counted(more, 'more fault')}" if more else first


def content_faults(header: Header, arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    """What is wrong with arrays whose dtypes, shapes and counts are right, one line each."""
    structure = [*_structure_faults(header, arrays)]
    yield from structure
    if header.tokenizer and "tokens" in arrays:
        yield from _out_of_range("tokens", arrays["tokens"], header.tokenizer.vocab_size)
    next_tokens = "labels" not in arrays and "tokens" in arrays
    classes_alone = next_tokens and arrays["tokens"].max(initial=0) < header.num_classes  # then so are the labels
    if not structure and "positions" in arrays and not classes_alone:
        labels = Batch(header.fields, dict(arrays), header.records, header.num_classes).labels
        yield from task_of(header.task).label_faults(labels, header.num_classes)
    for kind in header.records:
        yield from kind.faults(arrays, header.num_classes)
    for name, array in arrays.items():
        if name != "labels" and array.dtype.kind == "f" and _holds_nan(array):
            yield f"{name} holds NaN"


def _structure_faults(header: Header, arrays: Mapping[str, np.ndarray]) -> Iterator[str]:
    tokens_B = arrays.get("token_counts")
    if tokens_B is None:
        return
    if len(tokens_B) and tokens_B.min() == 0:
        yield "an example has no tokens"
    if "document_lengths" in arrays:
        lengths_D, documents_B = arrays["document_lengths"], arrays["document_counts"]
        if len(lengths_D) and lengths_D.min() == 0:
            yield "a document has no tokens"
        if not np.array_equal(_sums(lengths_D, documents_B), tokens_B):
            yield "document lengths do not sum to the tokens of their example"
    if "positions" in arrays and not _ascend(arrays["positions"], arrays["position_counts"], tokens_B, header):
        yield "positions do not ascend inside their example"
    if "continues" in arrays:
        yield from _out_of_range("continues", arrays["continues"], 2)


def _ascend(positions_P: np.ndarray, counts_B: np.ndarray, tokens_B: np.ndarray, header: Header) -> bool:
    """Strictly ascending in each example, and where the task has positions."""
    ends_B = np.cumsum(counts_B, dtype=np.int64)
    first_P = np.zeros(len(positions_P) + 1, bool)
    first_P[ends_B - counts_B] = True  # of an example; of one without positions the place is another's or the end
    if not (first_P[1:-1] | (positions_P[1:] > positions_P[:-1])).all():
        return False
    with_some = counts_B > 0
    last = positions_P[ends_B[with_some] - 1]
    return bool((last < _ends(tokens_B, header)[with_some]).all())


def _ends(tokens_B: np.ndarray, header: Header) -> np.ndarray:
    """Where positions end in examples of so many tokens; the task is asked once for each length."""
    end, ends = task_of(header.task).end, np.zeros(int(tokens_B.max(initial=0)) + 1, np.int64)
    for length in np.flatnonzero(np.bincount(tokens_B)).tolist():
        ends[length] = end(length)
    return ends[tokens_B]


def _sums(values: np.ndarray, counts: np.ndarray) -> np.ndarray:
    """The sum of each example's values."""
    ends = np.cumsum(counts, dtype=np.int64)
    sums = np.concatenate([[0], np.cumsum(values, dtype=np.int64)])
    return sums[ends] - sums[ends - counts]


def _holds_nan(array: np.ndarray) -> bool:
    """float16 by its bits: whole numbers are compared 20 times as fast."""
    if not array.size:
        return False
    if array.dtype == np.float16:
        return bool(array.view(np.int16).max() > 0x7C00 or array.view(np.uint16).max() > 0xFC00)
    return bool(np.isnan(array.max()))


def _out_of_range(name: str, values: np.ndarray, limit: int) -> Iterator[str]:
    if len(values) and values.max() >= limit:
        yield f"{name} go up to {values.max()}, expected below {limit}"
