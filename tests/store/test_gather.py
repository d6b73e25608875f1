"""Examples of several batches in one: the same as slices one after the other, and nothing beyond the arrays' ends."""

import gc

import numpy as np
import pytest
from hypothesis import given
from hypothesis import strategies as st

from kdcache.store.batch import Batch, concat
from kdcache.store.copying import address, copy_ranges
from kdcache.store.gather import Chosen, Origin
from kdcache.targets.fields import Field

FIELDS = (
    Field("tokens", "token", "uint16"),
    Field("continues", "example", "uint8"),
    Field("positions", "position", "uint32"),
    Field("features", "position", "float16", (3, 2)),
    Field("ids", "entry", "uint16"),
)


def batch_of(rng, examples):
    token_counts = rng.integers(1, 9, examples).astype(np.uint32)
    position_counts = rng.integers(0, token_counts, endpoint=True).astype(np.uint32)
    positions = int(position_counts.sum())
    entry_counts = rng.integers(0, 5, positions).astype(np.uint32)
    arrays = {
        "token_counts": token_counts,
        "position_counts": position_counts,
        "entry_counts": entry_counts,
        "tokens": rng.integers(0, 1 << 16, token_counts.sum()).astype(np.uint16),
        "continues": rng.integers(0, 2, examples).astype(np.uint8),
        "positions": rng.integers(0, 1 << 32, positions).astype(np.uint32),
        "features": rng.normal(size=(positions, 3, 2)).astype(np.float16),
        "ids": rng.integers(0, 1 << 16, entry_counts.sum()).astype(np.uint16),
    }
    return Batch(FIELDS, arrays, (), 10)


@given(st.integers(0, 2**32), st.lists(st.integers(1, 6), min_size=1, max_size=4), st.integers(0, 12))
def test_the_examples_are_those_of_slices_one_after_the_other(seed, sizes, number):
    rng = np.random.default_rng(seed)
    batches = [batch_of(rng, size) for size in sizes]
    which = rng.integers(0, len(batches), number)
    rows = rng.integers(0, np.array(sizes)[which])
    order = rng.permutation(number)
    found = Chosen([Origin(batch) for batch in batches], which, rows).in_order(order)
    slices = [batches[which[i]].slice(rows[i], rows[i] + 1) for i in order]
    expected = concat([batches[0].slice(0, 0), *slices])
    assert found.lengths.tolist() == expected.lengths.tolist()
    copy = found.copied()
    assert copy.arrays.keys() == expected.arrays.keys()
    for name, array in expected.arrays.items():
        assert copy.arrays[name].dtype == array.dtype
        np.testing.assert_array_equal(copy.arrays[name], array)


def test_nothing_is_copied_from_beyond_an_array():
    batch = batch_of(np.random.default_rng(0), 3)
    for which, rows in (([0], [3]), ([0], [-1])):
        with pytest.raises(IndexError):
            Chosen([Origin(batch)], np.array(which), np.array(rows))
    with pytest.raises(ValueError, match=r"got \d+ ids, expected \d+ as the counts say"):
        Origin(batch_with(batch, "ids", batch.arrays["ids"][:-1]))


def batch_with(batch, name, array):
    return Batch(batch.fields, {**batch.arrays, name: array}, (), 10)


def test_arrays_in_pieces_are_put_into_one():
    batch = batch_of(np.random.default_rng(0), 3)
    apart = np.repeat(batch.arrays["tokens"], 2)[::2]
    assert not apart.flags.c_contiguous
    origin = Origin(batch_with(batch, "tokens", apart))
    gc.collect()
    copy = Chosen([origin], np.zeros(3, np.int64), np.arange(3)).copied()
    np.testing.assert_array_equal(copy.arrays["tokens"], batch.arrays["tokens"])


def test_ranges_have_to_fill_what_they_are_copied_into():
    source, into = np.arange(10, dtype=np.uint8), np.zeros(5, np.uint8)
    at = np.array([address(source) + 6, address(source)])
    copy_ranges(into, at, np.array([3, 2]))
    assert into.tolist() == [6, 7, 8, 0, 1]
    for sizes in ([3, 3], [3, 1], [6, -1]):
        with pytest.raises(ValueError, match="expected them to fill 5"):
            copy_ranges(into, at, np.array(sizes))
    with pytest.raises(ValueError, match="in one piece"):
        address(source[::2])
