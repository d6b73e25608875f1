"""The largest logits of a row, in order: largest first, of equal logits the smaller class id first.

A heap of m keys, smallest first, takes in what is larger than its root; heapsort puts it in order. As in sample.py a
key is an int64 that grows with the logit and, of equal logits, with the smaller id.
"""

import numpy as np

from kdcache.targets.compiled.flags import compiled
from kdcache.targets.compiled.lanes import bits
from kdcache.targets.constants import ID_BITS, ID_MASK

__all__ = ["id_of", "largest", "order_key", "sort"]

_MAGNITUDE = np.int32(0x7FFFFFFF)
_ZERO = np.float32(0.0)


@compiled()
def order_key(logit, class_id):
    pattern = bits(logit + _ZERO)
    ordered = np.int64(pattern ^ ((pattern >> np.int32(31)) & _MAGNITUDE))
    return (ordered << ID_BITS) | (ID_MASK - class_id)


@compiled()
def id_of(key):
    return ID_MASK - (key & ID_MASK)


@compiled()
def _sift(heap, at, size):
    """Restores a heap whose node `at` may be too large."""
    node = heap[at]
    while 2 * at + 1 < size:
        child = 2 * at + 1
        if child + 1 < size and heap[child + 1] < heap[child]:
            child += 1
        if heap[child] >= node:
            break
        heap[at] = heap[child]
        at = child
    heap[at] = node


@compiled()
def _heapify(heap, size):
    for at in range(size // 2 - 1, -1, -1):
        _sift(heap, at, size)


@compiled()
def _sort_heap(heap, size):
    for last in range(size - 1, 0, -1):
        heap[0], heap[last] = heap[last], heap[0]
        _sift(heap, 0, last)


@compiled()
def sort(keys, size):
    """The first so many keys in order, in place."""
    _heapify(keys, size)
    _sort_heap(keys, size)


@compiled()
def largest(z, segment, maxima, keys):
    """Fills keys with those of the len(keys) largest logits, in order.

    The m largest logits lie in the m segments with the largest maxima, and none is below the least of these.
    """
    m, S, threshold = keys.size, maxima.size, -np.inf
    if m < S:
        for s in range(m):
            keys[s] = order_key(maxima[s], s)
        _heapify(keys, m)
        for s in range(m, S):
            key = order_key(maxima[s], s)
            if key > keys[0]:
                keys[0] = key
                _sift(keys, 0, m)
        threshold = maxima[id_of(keys[0])]
    found = 0
    for s in range(S):
        if maxima[s] < threshold:
            continue
        for i in range(s * segment, min((s + 1) * segment, z.size)):
            if z[i] < threshold:
                continue
            key = order_key(z[i], i)
            if found < m:
                keys[found] = key
                found += 1
                if found == m:
                    _heapify(keys, m)
            elif key > keys[0]:
                keys[0] = key
                _sift(keys, 0, m)
    _sort_heap(keys, m)
