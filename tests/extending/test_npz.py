"""Shards of a backend of one's own, through every command as the built-in backends go."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from extending.npz import Npz
from helpers import files_of, kdcache
from hypothesis import given
from hypothesis import strategies as st
from own_loop import LLAMA
from store.making import same_arrays, shards, there_and_back

import kdcache as public

MODULE = "extending.npz"


@given(shard=shards(), size=st.integers(1, 6))
def test_the_promises_of_a_backend(shard, size: int) -> None:
    fields, arrays = shard
    data = Npz().encode(fields, [arrays], {"unit": 3})
    assert data == Npz().encode(fields, [{name: arrays[name].copy() for name in reversed(arrays)}], {"unit": 3})
    assert same_arrays(there_and_back(Npz(), fields, arrays, size), arrays)


def test_through_dump_verify_convert_train_and_eval(
    command: Callable, language_model: Callable, train: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    of_npz, of_zarr = tmp_path / "of-npz", tmp_path / "of-zarr"
    command("dump-logits", language_model(of_npz, module=MODULE, backend="npz"))
    command("dump-logits", language_model(of_zarr))
    assert len([*of_npz.glob("shards/*/*.npz")]) == 3
    (first, *_) = public.open_cache(of_npz).manifest.shards
    with np.load(of_npz / first.file) as arrays:
        assert len(arrays["0/token_counts"]) == first.block_examples

    command("verify", of_npz, "--module", MODULE)
    assert "every digest and count is right" in capsys.readouterr().out
    before, lost = files_of(of_npz), next(of_npz.glob("shards/*/000001.json"))
    lost.unlink()
    command("verify", of_npz, "--repair", "--module", MODULE)
    assert "of its shard and shards.arrow" in capsys.readouterr().out
    assert files_of(of_npz) == before
    command("convert", of_npz, tmp_path / "to-zarr", "--to", "zarr", "--module", MODULE)
    assert files_of(tmp_path / "to-zarr") == files_of(of_zarr)
    command("convert", of_zarr, tmp_path / "to-npz", "--to", "npz", "--module", MODULE)
    assert files_of(tmp_path / "to-npz") == files_of(of_npz)

    losses = train(of_npz, tmp_path / "student", LLAMA, [{"name": "divergence"}], steps=24)
    assert losses[-1] < 0.9 * losses[0]
    assert losses == train(of_zarr, tmp_path / "student", LLAMA, [{"name": "divergence"}], steps=24)
    capsys.readouterr()
    command("eval", tmp_path / "student", "--cache", of_npz, "--untrained", "--json", "--module", MODULE)
    teacher, untrained, student = json.loads(capsys.readouterr().out)
    assert teacher["kl"] == 0 < student["kl"] < untrained["kl"]


def test_who_has_not_registered_it_is_told_how(command: Callable, language_model: Callable, tmp_path: Path) -> None:
    command("dump-logits", language_model(tmp_path / "cache", module=MODULE, backend="npz"))
    done = kdcache("inspect", tmp_path / "cache")
    assert done.returncode == 1
    assert "or a module of yours that registers it: feature backend/npz (`module` in" in done.stderr
    done = kdcache("dump-logits", language_model(tmp_path / "other", backend="npz"))
    assert done.returncode == 2
    assert "backend: got backend 'npz', which is not known; expected one of zarr, arrow, parquet" in done.stderr
    (tmp_path / "cache/shards/000/000001.npz").write_bytes(b"no npz")
    with pytest.raises(public.DamagedShardError, match=r"000001\.npz is damaged"):
        public.open_cache(tmp_path / "cache").read_shard(1)
