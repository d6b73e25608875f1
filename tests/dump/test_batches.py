"""Batches limited by tokens: what shares a forward pass, and that nothing but the unit decides it."""

from collections.abc import Callable
from itertools import pairwise, product
from pathlib import Path

import numpy as np
import pytest
from helpers import files_of
from hypothesis import given
from hypothesis import strategies as st

import kdcache
from kdcache.dump.batches import in_order, longest_first
from kdcache.dump.run import run_dump
from kdcache.dump.settings import ComputeConfig, DumpConfig
from kdcache.launcher import World

MakeConfig = Callable[..., DumpConfig]
LENGTHS = st.lists(st.integers(1, 400), max_size=60)


@given(LENGTHS, st.integers(1, 1000))
def test_every_example_is_in_one_batch_that_fits(lengths: list[int], batch_tokens: int) -> None:
    for batches in (longest_first(lengths, batch_tokens), in_order(lengths, batch_tokens)):
        assert sorted(int(i) for batch in batches for i in batch) == [*range(len(lengths))]
        for batch in batches:
            padded = len(batch) * max(lengths[i] for i in batch)
            assert padded <= batch_tokens or len(batch) == 1


@given(st.lists(st.integers(1, 40), min_size=1, max_size=8), st.integers(1, 200))
def test_no_other_cut_costs_less(lengths: list[int], batch_tokens: int) -> None:
    """Of all cuts of the sorted lengths into batches that fit: padded tokens, and a 32nd of the limit for each pass."""
    found = longest_first(lengths, batch_tokens)
    ordered = [lengths[i] for batch in found for i in batch]
    assert ordered == sorted(lengths, reverse=True)

    def cost(sizes: list[int]) -> float:
        ends = np.cumsum(sizes)
        padded = [size * ordered[end - size] for size, end in zip(sizes, ends, strict=True)]
        fits = all(tokens <= batch_tokens or size == 1 for tokens, size in zip(padded, sizes, strict=True))
        return sum(padded) + len(sizes) * max(1, batch_tokens // 32) if fits else np.inf

    cuts = product((False, True), repeat=len(lengths) - 1)
    every = ([len(part) for part in "".join("a|" if cut else "a" for cut in (*cut, False)).split("|")] for cut in cuts)
    assert cost([len(batch) for batch in found]) == min(map(cost, every))


@given(LENGTHS, st.integers(1, 1000))
def test_neighbours_stay_neighbours(lengths: list[int], batch_tokens: int) -> None:
    """The next example would not have fitted."""
    neighbours = in_order(lengths, batch_tokens)
    assert [i for batch in neighbours for i in batch] == [*range(len(lengths))]
    for batch, after in pairwise(neighbours):
        assert (len(batch) + 1) * max(lengths[i] for i in (*batch, after[0])) > batch_tokens


def test_little_is_padded_and_passes_are_full() -> None:
    lengths = np.random.default_rng(0).lognormal(4, 1, 2048).astype(int).clip(4, 1024).tolist()
    for batch_tokens, padding, full in ((2048, 0.03, 0.7), (16384, 0.08, 0.4)):
        padded = [len(batch) * lengths[batch[0]] for batch in longest_first(lengths, batch_tokens)]
        assert sum(padded) <= (1 + padding) * sum(lengths)
        assert np.mean(padded) >= full * batch_tokens


def test_equal_lengths_keep_their_order() -> None:
    assert [batch.tolist() for batch in longest_first([5, 9, 5, 9, 5], 18)] == [[1, 3], [0, 2, 4]]


def test_a_device_has_its_default() -> None:
    auto = ComputeConfig()
    assert auto.batch_tokens_on("cpu") < auto.batch_tokens_on("cuda")
    assert ComputeConfig(batch_tokens=77).batch_tokens_on("cuda") == 77


@pytest.mark.parametrize("batch_tokens", [1, 100, 4096])
def test_documents_of_all_lengths_at_every_world_size(
    make_config: MakeConfig, tmp_path: Path, batch_tokens: int
) -> None:
    """The header says the number, and the records are those of examples alone."""
    sections = {
        "task": {"packing": "documents", "overlong": "drop", "sequence_length": 128},
        "record": {"kind": "dense", "logit_dtype": "float32"},
    }
    for world_size in (1, 2):
        config = make_config(tmp_path / str(world_size), compute={"batch_tokens": batch_tokens}, **sections)
        for rank in range(world_size):
            run_dump(config, World(rank, world_size))
    assert files_of(tmp_path / "1") == files_of(tmp_path / "2")
    cache = kdcache.open_cache(tmp_path / "1")
    assert cache.manifest.header.compute["batch_tokens"] == batch_tokens
    run_dump(make_config(tmp_path / "alone", compute={"batch_tokens": 1}, **sections), World())
    alone = kdcache.open_cache(tmp_path / "alone")
    ours, theirs = (each.read(0, len(each)).targets().dense_log_probs(1.0).numpy() for each in (cache, alone))
    np.testing.assert_allclose(ours, theirs, atol=1e-5)


def test_auto_is_pinned_as_a_number(make_config: MakeConfig, tmp_path: Path) -> None:
    config = make_config(tmp_path / "c", compute={"batch_tokens": "auto"})
    run_dump(config, World(0, 2))
    run_dump(make_config(tmp_path / "c", compute={"batch_tokens": ComputeConfig().batch_tokens_on("cpu")}), World())
    assert kdcache.open_cache(tmp_path / "c").manifest.header.compute["batch_tokens"] == 2048
