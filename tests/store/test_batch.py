"""The laws of Batch, against examples cut out one element at a time."""

from unittest.mock import patch

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from store.making import CLASSES, same_arrays, shards, split_examples, tokens_and_logits, write_cache

from kdcache import open_cache
from kdcache.errors import CacheError
from kdcache.store import batch as batch_module
from kdcache.store.batch import Batch, concat
from kdcache.targets.dense import Dense
from kdcache.targets.fields import Field


def as_batch(shard) -> Batch:
    return Batch(*shard, records=(), num_classes=2)


@pytest.mark.parametrize("long_range", [0, 1 << 30], ids=["blocks", "gather"])
@given(shard=shards(), data=st.data())
def test_take(long_range: int, shard, data: st.DataObject) -> None:
    """Long ranges are copied as blocks and short ones gathered: each way must do for all."""
    batch, examples = as_batch(shard), split_examples(*shard)
    chosen = data.draw(st.lists(st.integers(0, len(batch) - 1), max_size=8)) if len(batch) else []
    with patch.object(batch_module, "LONG_RANGE", long_range):
        taken = batch.take(chosen)
    assert len(taken) == len(chosen)
    assert split_examples(taken.fields, taken.arrays) == [examples[i] for i in chosen]
    assert {name: array.dtype for name, array in taken.arrays.items()} == {
        name: array.dtype for name, array in batch.arrays.items()
    }


@given(shard=shards(), data=st.data())
def test_slice(shard, data: st.DataObject) -> None:
    batch, examples = as_batch(shard), split_examples(*shard)
    start = data.draw(st.integers(0, len(batch)))
    stop = data.draw(st.integers(start, len(batch)))
    part = batch.slice(start, stop)
    assert split_examples(part.fields, part.arrays) == examples[start:stop]
    assert same_arrays(part.arrays, batch.take(range(start, stop)).arrays)


@given(shard=shards(), data=st.data())
def test_concat_undoes_slicing(shard, data: st.DataObject) -> None:
    batch = as_batch(shard)
    cuts = sorted(data.draw(st.lists(st.integers(0, len(batch)), max_size=4)))
    parts = [batch.slice(a, b) for a, b in zip([0, *cuts], [*cuts, len(batch)], strict=True)]
    assert same_arrays(concat(parts).arrays, batch.arrays)


def test_a_slice_is_a_view() -> None:
    rows = np.arange(6, dtype=np.uint32)
    batch = as_batch(((Field("x", "token", "uint32"),), {"token_counts": rows[:4], "x": rows}))
    assert np.shares_memory(batch.slice(1, 3).arrays["x"], rows)


def test_accessors(tmp_path) -> None:
    write_cache(tmp_path / "cache", 10)
    given_examples = tokens_and_logits(10)
    batch = open_cache(tmp_path / "cache").read(0, 10).take([7, 2, 2, 9])
    chosen = [given_examples[i] for i in (7, 2, 2, 9)]
    assert batch.num_positions == sum(len(logits) for _, logits in chosen)
    assert batch.num_tokens == sum(len(tokens) for tokens, _ in chosen)
    for i, (tokens, _) in enumerate(chosen):
        assert batch.tokens(i).dtype == batch.positions(i).dtype == batch.documents(i).dtype == np.int64
        assert batch.tokens(i).tolist() == tokens.tolist()
        assert batch.positions(i).tolist() == [*range(len(tokens) - 1)]
        assert batch.documents(i).tolist() == [len(tokens)]
    labels = np.concatenate([tokens[1:] for tokens, _ in chosen])
    assert batch.labels.dtype == np.int64
    assert batch.labels.tolist() == labels.tolist()
    logits = np.concatenate([logits for _, logits in chosen])
    label_logits = batch.targets().label_logits(torch.from_numpy(batch.labels))
    assert label_logits is not None
    np.testing.assert_allclose(label_logits, logits[np.arange(len(labels)), labels], atol=0.01)
    assert batch.nbytes == sum(array.nbytes for array in batch.arrays.values())


def test_stored_labels_win() -> None:
    fields = (Field("tokens", "token", "uint16"), Field("labels", "position", "uint16"))
    arrays = {
        "token_counts": np.array([2, 1], np.uint32),
        "position_counts": np.array([1, 1], np.uint32),
        "tokens": np.array([5, 6, 7], np.uint16),
        "labels": np.array([1, 0], np.uint16),
    }
    assert as_batch((fields, arrays)).labels.tolist() == [1, 0]


def test_label_only_has_no_targets(tmp_path) -> None:
    write_cache(tmp_path / "cache", 3, record=None)
    batch = open_cache(tmp_path / "cache").read(0, 3)
    assert len(batch.labels) == batch.num_positions > 0
    with pytest.raises(CacheError, match="holds labels only"):
        batch.targets()


def test_dense_targets(tmp_path) -> None:
    write_cache(tmp_path / "cache", 5, record=Dense(logit_dtype="float32"))
    batch = open_cache(tmp_path / "cache").read(0, 5)
    logits_PV = np.concatenate([logits for _, logits in tokens_and_logits(5)])
    expected_PV = logits_PV / 2 - np.log(np.exp(logits_PV / 2).sum(-1, keepdims=True))
    assert logits_PV.shape[1] == CLASSES
    np.testing.assert_allclose(batch.targets().dense_log_probs(2.0).numpy(), expected_PV, atol=1e-5)
