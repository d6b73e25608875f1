"""Dumps with a factored tail: the same bytes at every world size, near the teacher, and trained from."""

from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
import torch
from families import FAMILIES, saved
from helpers import files_of
from store.making import BACKENDS

import kdcache
from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.errors import ConfigError, TeacherError
from kdcache.launcher import World
from kdcache.store.verify import verify

MakeConfig = Callable[..., DumpConfig]
RECORD = {"kind": "factored", "rank": "full"}


def dump(config: DumpConfig, world_size: int = 1) -> None:
    for rank in range(world_size):
        run_dump(config, World(rank, world_size))


@pytest.mark.parametrize("backend", BACKENDS)
def test_the_bytes_are_the_same_at_every_world_size(make_config: MakeConfig, tmp_path: Path, backend: str) -> None:
    for world_size in (1, 2):
        dump(make_config(tmp_path / str(world_size), backend=backend, record=RECORD), world_size)
    one = files_of(tmp_path / "1")
    assert sum(name.startswith("basis-") for name in one) == 1
    assert files_of(tmp_path / "2") == one
    assert verify(tmp_path / "1") == []


@pytest.mark.parametrize("family", ["llama", "gemma2", "cohere", "phi"])
def test_records_are_near_the_teacher(make_config: MakeConfig, tmp_path: Path, family: str) -> None:
    from transformers import AutoModelForCausalLM

    folder = saved(family, tmp_path / "teacher")
    dump(make_config(tmp_path / "cache", teacher={"path": str(folder)}, record=RECORD))
    model = AutoModelForCausalLM.from_pretrained(folder)
    cache = kdcache.open_cache(tmp_path / "cache")
    assert cache.basis.rank == 32
    assert cache.basis.soft_cap == FAMILIES[family].get("final_logit_softcapping")
    batch = cache.read(len(cache) - 1, len(cache))
    tokens, documents = batch.tokens(0), batch.documents(0)
    rows = []
    for start, stop in zip(np.cumsum(documents) - documents, np.cumsum(documents), strict=True):
        rows.append(model(torch.from_numpy(tokens[start:stop])[None]).logits[0, :, :320].detach())
    plain_PV = torch.cat(rows)[torch.from_numpy(batch.positions(0))]
    for temperature in (1.0, 2.0, 4.0):
        exact_PV = (plain_PV / temperature).log_softmax(-1)
        got_PV = batch.targets().dense_log_probs(temperature)
        assert (exact_PV.exp() * (exact_PV - got_PV)).sum(-1).mean() < 5e-3


def test_a_dump_that_goes_on_does_not_calibrate_again(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    config = make_config(tmp_path / "cache", record=RECORD)
    dump(config)
    before = files_of(tmp_path / "cache")
    for name in ("cache.json", "shards/000/000003.json"):
        (tmp_path / "cache" / name).unlink()
    monkeypatch.setattr("kdcache.dump.begin.calibrate", None)
    dump(config)
    assert files_of(tmp_path / "cache") == before


def test_what_cannot_be_factored_is_refused(
    make_config: MakeConfig, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    with pytest.raises(ConfigError, match=r"got record.rank 33, expected at most 32"):
        dump(make_config(tmp_path / "1", record={**RECORD, "rank": 33}))
    monkeypatch.setattr("kdcache.models.head.Head.output_layer", lambda head: None)
    with pytest.raises(TeacherError, match="the logits of LlamaForCausalLM are not its output layer's"):
        dump(make_config(tmp_path / "2", record=RECORD))
    assert not (tmp_path / "2" / "header.json").exists()
