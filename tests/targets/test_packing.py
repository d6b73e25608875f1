"""Packed: the same numbers on arrival, in as few bytes as they take, and nothing asked of the device."""

from typing import Any

import numpy as np
import pytest
import torch
from hypothesis import given
from hypothesis import strategies as st
from hypothesis.extra.numpy import array_shapes, arrays

from kdcache.targets.packing import Packed

EDGES = [1 << 8, 1 << 16, (1 << 16) + 1, 1 << 24, (1 << 24) + 1, 1 << 31]


def bytes_of(count: int, each: int) -> int:
    return -(-count * each // 16) * 16


def test_every_kind_of_number_arrives() -> None:
    rng = np.random.default_rng(1)
    sent = {
        "places": torch.from_numpy(rng.integers(0, 70_000, 50)),
        "negative": torch.tensor([-100, 5]),
        "large": torch.tensor([1 << 40, -1]),
        "mask": torch.tensor([[True, False]]),
        "codes": torch.from_numpy(rng.integers(0, 65_536, (9, 3)).astype(np.uint16)),
        "wide": torch.from_numpy(rng.integers(0, 65_536, (9, 40)).astype(np.uint16)),
        "ids": torch.from_numpy(np.array([3, 1 << 31], np.uint32)),
        "floats": torch.tensor([1.5, -torch.inf]),
        "halves": torch.tensor([[1.5], [2.0]], dtype=torch.float16),
        "none": torch.zeros(0, 7, dtype=torch.int64),
    }
    there = Packed.of(sent).to("cpu")
    for name, tensor in sent.items():
        assert there[name].shape == tensor.shape
        np.testing.assert_array_equal(there[name].numpy(), tensor.numpy(), err_msg=name)
    assert there["codes"].dtype == torch.int32
    assert there["ids"].dtype == torch.int64


@given(st.data(), st.sampled_from(EDGES), st.sampled_from([np.uint32, np.int32, np.int64]), st.booleans())
def test_ids_arrive_whatever_the_number_of_classes(data: st.DataObject, classes: int, dtype: Any, below: bool) -> None:
    ids = data.draw(arrays(dtype, array_shapes(max_dims=2, max_side=40), elements=st.integers(0, classes - 1)))
    ids.flat[0] = classes - 1
    if below and dtype is not np.uint32:
        ids.flat[-1] = -100
    there = Packed.of([torch.from_numpy(ids), torch.arange(5)]).to("cpu")
    np.testing.assert_array_equal(there[0].numpy(), ids)
    assert there[0].dtype == (torch.int32 if dtype is np.int32 else torch.int64)
    assert torch.equal(there[1], torch.arange(5))


@pytest.mark.parametrize(("classes", "each"), zip(EDGES, (1, 2, 3, 3, 4, 4), strict=True))
@pytest.mark.parametrize("dtype", [np.uint32, np.int64])
def test_an_id_takes_the_bytes_of_the_largest(classes: int, each: int, dtype: Any) -> None:
    ids = np.full(1000, classes - 1, dtype)
    size = Packed.of(torch.from_numpy(ids)).buffer.numel()
    assert bytes_of(1000, each) <= size <= bytes_of(1000, each) + 16


def test_what_arrives_is_put_together_without_asking_the_device() -> None:
    """One graph of it, and no number is read back."""
    rng = np.random.default_rng(0)
    sent = [
        torch.from_numpy(rng.integers(0, 151_936, (7, 9)).astype(np.uint32)),
        torch.from_numpy(rng.integers(0, 65_536, (9, 3)).astype(np.uint16)),
        torch.randn(5),
    ]
    packed = Packed.of(sent)
    with torch.profiler.profile(activities=[torch.profiler.ProfilerActivity.CPU]) as seen:
        wanted = packed.to("cpu")
    names = {event.key for event in seen.key_averages()}
    assert not names & {"aten::_local_scalar_dense", "aten::item", "aten::nonzero"}
    torch._dynamo.reset()
    arrived = torch.compile(
        lambda buffer: [place.of(buffer) for place in packed.places], fullgraph=True, backend="eager"
    )(packed.buffer)
    for got, expected in zip(arrived, wanted, strict=True):
        assert torch.equal(got, expected)
