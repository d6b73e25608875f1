"""Inputs made ahead: as few bytes as they take, the same numbers on arrival, and a state of what was handed out."""

from itertools import islice
from pathlib import Path

import numpy as np
import pytest
import torch

import kdcache
from kdcache.students.prefetch import Prefetcher
from kdcache.targets.moving import tensors_in
from kdcache.targets.packing import Packed

V = 49_152
SMALL = {"model_type": "llama", "hidden_size": 8, "intermediate_size": 8, "num_hidden_layers": 1}


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> kdcache.Cache:
    """Default records of rows about as sure as a language model's."""
    folder, rng = tmp_path_factory.mktemp("ahead") / "cache", np.random.default_rng(0)
    with kdcache.CacheWriter(folder, num_classes=V, examples_per_shard=4) as writer:
        for _ in range(12):
            sure_P1 = rng.uniform(2.0, 3.6, (24, 1))
            writer.add(rng.integers(V, size=25), (rng.normal(size=(24, V)) * sure_P1).astype(np.float32))
    return kdcache.open_cache(folder)


def collator(cache: kdcache.Cache) -> kdcache.Collator:
    config = SMALL | {"num_attention_heads": 2, "vocab_size": V}
    return kdcache.Collator(kdcache.make_student(kdcache.StudentConfig(config=config), cache, seed=0), cache)


def test_the_same_inputs_arrive_in_few_bytes(cache: kdcache.Cache) -> None:
    inputs = collator(cache)(cache.read(0, 12))
    packed = Packed.of(inputs)
    there, here = packed.to("cpu").decoded(), inputs.decoded()
    for arrived, sent in zip(tensors_in(there), tensors_in(here), strict=True):
        assert arrived.dtype == sent.dtype
        assert torch.equal(arrived, sent)
    positions, entries = inputs.supervision.num_positions, len(inputs.supervision.records.arrays["ids"])  # type: ignore[union-attr]
    # Rows of noise have more entries than a language model's, which have 14.2 per position.
    few = packed.buffer.numel() / positions - 4 * (entries / positions - 14.2)
    assert few <= 110, f"{few:.1f} bytes per position"


def test_micro_batches_come_in_order_and_the_state_is_of_what_was_handed_out(cache: kdcache.Cache) -> None:
    sizes = {"global_batch": 4, "micro_batch": 2, "seed": 3}
    collate = collator(cache)
    with kdcache.Loader(cache, **sizes) as loader:
        steps = [[collate(batch) for batch in step] for step in islice(loader, 5)]
    with kdcache.Loader(cache, **sizes) as loader, Prefetcher(loader, collate, "cpu") as feed:
        first = [next(feed) for _ in range(4)]
        state = feed.state_dict()
    with kdcache.Loader(cache, **sizes) as loader:
        loader.load_state_dict(state)
        with Prefetcher(loader, collate, "cpu", depth=3) as feed:
            rest = [next(feed) for _ in range(6)]
    for k, fed in enumerate([*first, *rest]):
        expected = steps[k // 2][k % 2]
        assert (fed.number, fed.of, fed.positions, fed.tokens) == (k % 2, 2, 96, 100)
        assert torch.equal(fed.inputs.model.arguments["input_ids"], expected.model.arguments["input_ids"])
        for got, wanted in zip(tensors_in(fed.inputs), tensors_in(expected.decoded()), strict=True):
            assert torch.equal(got, wanted)


def test_what_the_loader_raises_comes_at_its_micro_batch(cache: kdcache.Cache, tmp_path: Path) -> None:
    class Failing(list):  # type: ignore[type-arg]
        def __next__(self) -> list[kdcache.Batch]:
            if self:
                return [self.pop()]
            raise kdcache.DamagedShardError("shard 3 is damaged")

        def __iter__(self) -> "Failing":  # type: ignore[override]
            return self

        def state_dict(self) -> dict[str, int]:
            return {"left": len(self)}

    failing = Failing([cache.read(0, 1), cache.read(1, 2)])
    with Prefetcher(failing, collator(cache), "cpu") as feed:  # type: ignore[arg-type]
        next(feed)
        assert feed.state_dict() == {"left": 1}
        next(feed)
        with pytest.raises(kdcache.DamagedShardError, match="shard 3"):
            next(feed)
