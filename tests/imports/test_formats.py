"""Each format against the numbers that its fixture was written from, in float64; resumed, byte for byte the same."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from imports import capturing
from imports.conftest import Import
from store.making import tree

from kdcache.errors import ConfigError
from kdcache.imports.llama_cpp import LlamaCpp
from kdcache.imports.options import ImportOptions
from kdcache.imports.run import CacheBuilder
from kdcache.report.inspect import describe, render
from kdcache.store.cache import open_cache
from kdcache.store.verify import verify

LOGITS = capturing.table()
OF = capturing.texts(LOGITS)


def jsonl(folder: Path) -> tuple[list[Path], dict[str, Any]]:
    rows = capturing.vllm_rows(LOGITS, OF, 5)
    return [capturing.write_jsonl(folder / "scored.jsonl", rows)], {"rows_per_shard": 2}


def axolotl(folder: Path) -> tuple[list[Path], dict[str, Any]]:
    rows = []
    for tokens in OF:
        ids, log_p = capturing.likeliest(capturing.log_softmax(LOGITS[tokens]), 5)
        rows.append({"input_ids": tokens.tolist(), "target_token_ids": ids.tolist(), "target_logprobs": log_p.tolist()})
    return [capturing.write_jsonl(folder / "axolotl.jsonl", rows)], {"rows_per_shard": 2}


def megatron(folder: Path, version: int = 2) -> tuple[list[Path], dict[str, Any]]:
    samples = np.stack(capturing.texts(LOGITS, 8, 24))
    capturing.write_megatron(folder / "shards", LOGITS, samples, version=version, k=5)
    np.save(folder / "tokens.npy", samples)
    return [folder / "shards"], {"tokens": str(folder / "tokens.npy")}


def megatron_1(folder: Path) -> tuple[list[Path], dict[str, Any]]:
    return megatron(folder, 1)


FORMATS: dict[str, tuple[str, Callable[[Path], tuple[list[Path], dict[str, Any]]], list[np.ndarray]]] = {
    "vllm": ("jsonl", jsonl, OF),
    "axolotl": ("jsonl", axolotl, OF),
    "megatron": ("megatron", megatron, capturing.texts(LOGITS, 8, 24)),
    "megatron-1": ("megatron", megatron_1, capturing.texts(LOGITS, 8, 24)),
}


@pytest.mark.parametrize("name", FORMATS)
def test_a_capture_of_the_likeliest_classes(name: str, importing: Import, tmp_path: Path) -> None:
    format, make, expected = FORMATS[name]
    paths, options = make(tmp_path)
    importing(format, paths, tmp_path / "cache", **options)
    assert verify(tmp_path / "cache") == []
    cache = open_cache(tmp_path / "cache")
    batch = cache.read(0, len(cache))
    assert len(batch) == len(expected)
    targets, at = batch.targets(), 0
    for i, tokens in enumerate(expected):
        assert batch.tokens(i).tolist() == tokens.tolist()
        assert batch.positions(i).tolist() == [*range(len(tokens) - 1)]
        ids, log_p = capturing.likeliest(capturing.log_softmax(LOGITS[tokens[:-1]]), 5)
        rows = slice(at, at + len(tokens) - 1)
        assert targets.ids_PE[rows].tolist() == ids.tolist()
        np.testing.assert_allclose(targets.log_probs(1.0)[rows].double(), log_p, atol=2e-6)
        np.testing.assert_allclose(targets.tail_mass(1.0)[rows].double(), 1 - np.exp(log_p).sum(1), atol=2e-6)
        at += len(tokens) - 1
    header = cache.manifest.header
    assert header.compute["import"]["missing"] == ["entropy", "label_loss", "tail"]
    assert header.compute["import"]["answers"] == [1.0]
    assert cache.manifest.corpus is not None
    lines = render(describe(str(tmp_path / "cache")))
    assert "captured: k 5; temperature 1.0; tail ghost" in lines
    assert f"from {format}; answers temperature 1; without entropy, label loss, tail" in lines


@pytest.mark.parametrize("name", FORMATS)
def test_an_import_that_was_ended_goes_on_to_the_same_bytes(
    name: str, importing: Import, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    format, make, _ = FORMATS[name]
    paths, options = make(tmp_path)
    importing(format, paths, tmp_path / "whole", **options)
    commit, done = CacheBuilder.commit, []

    def dies_after_one(self: CacheBuilder, index: int, *given: Any, **named: Any) -> Any:
        done.append(index)
        if len(done) == 2:
            raise KeyboardInterrupt
        return commit(self, index, *given, **named)

    with monkeypatch.context() as patch:
        patch.setattr(CacheBuilder, "commit", dies_after_one)
        with pytest.raises(KeyboardInterrupt):
            importing(format, paths, tmp_path / "cache", **options)
    assert not (tmp_path / "cache/cache.json").exists()
    importing(format, paths, tmp_path / "cache", **options)
    assert _plain(tree(tmp_path / "cache")) == _plain(tree(tmp_path / "whole"))


def _plain(files: dict[str, Any]) -> dict[str, Any]:
    return {name: data for name, data in files.items() if not name.startswith(".kdcache")}


def test_distillkit(importing: Import, tmp_path: Path) -> None:
    truth = capturing.write_distillkit(tmp_path / "captured", LOGITS, OF)
    importing("distillkit", [tmp_path / "captured"], tmp_path / "cache")
    assert verify(tmp_path / "cache") == []
    cache = open_cache(tmp_path / "cache")
    targets, at = cache.read(0, len(cache)).targets(), 0
    for ids, log_p in truth:
        sums = np.exp(log_p).sum(1)
        log_p = log_p - np.log(np.maximum(sums, 1))[:, None]
        for p in range(len(ids)):
            found = dict(zip(targets.ids_PE[at].tolist(), targets.log_probs(1.0)[at].tolist(), strict=True))
            assert found.keys() == {*ids[p].tolist()}
            for one, value in zip(ids[p].tolist(), log_p[p].tolist(), strict=True):
                assert found[one] == pytest.approx(min(value, 0), abs=2e-5)
            at += 1
    assert at == targets.num_positions


@pytest.mark.parametrize("classes", [320, 319])
def test_llama_cpp(classes: int, importing: Import, tmp_path: Path) -> None:
    logits = LOGITS[:classes, :classes].copy()
    logits[:, 5] -= 30  # beyond what the codes reach
    tokens = np.concatenate(capturing.texts(logits, 1, 64)) % classes
    file = capturing.write_llama(tmp_path / "base.bin", logits, tokens, n_ctx=16)
    record = {"kind": "sampled", "exact_top_k": 256, "logit_dtype": "float32", "curve": {"temperatures": [1.0]}}
    importing("llama_cpp", [file], tmp_path / "cache", num_classes=classes, record=record)
    assert verify(tmp_path / "cache") == []
    cache = open_cache(tmp_path / "cache")
    batch = cache.read(0, len(cache))
    assert len(batch) == 4
    texts = LlamaCpp([str(file)], ImportOptions(tokenizer="", vocab_size=classes)).unit(0)
    targets, at = batch.targets(), 0
    kept, ids = targets.log_probs(1.0), targets.ids_PE
    for chunk, text in enumerate(texts):
        assert batch.positions(chunk).tolist() == [*range(8, 15)]
        for p in range(8, 15):
            exact = capturing.log_softmax(logits[tokens[16 * chunk + p]].astype(np.float64))
            found = text.dense[p - 8]
            reached = exact > exact.max() - 15.9
            assert np.abs(found - exact)[reached].max() < 2e-4
            assert np.exp(found).sum() == pytest.approx(1, abs=1.3e-4)
            found -= np.log(np.exp(found).sum())
            assert np.abs(np.exp(found) - np.exp(exact)).max() < 2e-4
            np.testing.assert_allclose(kept[at][:256], found[ids[at][:256]], atol=1e-5)
            at += 1


@pytest.mark.parametrize("kind", ["dense", "sampled"])
def test_a_llama_capture_is_no_record_of_a_higher_temperature(kind: str, importing: Import, tmp_path: Path) -> None:
    tokens = np.concatenate(capturing.texts(LOGITS, 1, 64))
    file = capturing.write_llama(tmp_path / "base.bin", LOGITS, tokens, n_ctx=16)
    with pytest.raises(ConfigError, match=f"got record {kind}, which answers temperature 2, expected one for temperat"):
        importing("llama_cpp", [file], tmp_path / "cache", record={"kind": kind})
    assert not (tmp_path / "cache").exists()


def test_a_llama_capture_is_for_temperature_1(importing: Import, tmp_path: Path) -> None:
    tokens = np.concatenate(capturing.texts(LOGITS, 1, 64))
    file = capturing.write_llama(tmp_path / "base.bin", LOGITS, tokens, n_ctx=16)
    manifest = importing("llama_cpp", [file], tmp_path / "cache")
    assert manifest.header.compute["import"]["answers"] == [1.0]
    assert manifest.header.compute["import"]["rounded"].startswith("16 bits")
    assert not manifest.header.records[0].answers(2.0)
    assert torch.isfinite(open_cache(tmp_path / "cache").read(0, 1).targets().entropy(1.0)).all()


@pytest.mark.parametrize("wanted", [True, False])
def test_the_beginning_of_text_stands_where_the_model_read_it(wanted: bool, tmp_path: Path) -> None:
    """A file whose first token is the tokenizer's own beginning says that each chunk was read with it."""
    tokens = np.concatenate(capturing.texts(LOGITS, 1, 64))
    tokens[0] = 1 if wanted else 7
    file = capturing.write_llama(tmp_path / "base.bin", LOGITS, tokens, n_ctx=16)
    capture = LlamaCpp([str(file)], ImportOptions(tokenizer="", vocab_size=320, bos_token_id=1))
    found = [text.tokens for text in capture.unit(0)]
    expected = tokens.reshape(4, 16).copy()
    if wanted:
        expected[:, 0] = 1
    assert np.array_equal(found, expected)


def test_several_llama_files_are_one_capture(importing: Import, tmp_path: Path) -> None:
    tokens = np.concatenate(capturing.texts(LOGITS, 1, 64))
    files = [capturing.write_llama(tmp_path / f"{name}.bin", LOGITS, tokens, n_ctx=16) for name in "ab"]
    manifest = importing("llama_cpp", files, tmp_path / "cache", rows_per_shard=3)
    assert (manifest.totals.shards, manifest.totals.examples) == (4, 8)


def test_a_capture_of_another_temperature(importing: Import, tmp_path: Path) -> None:
    rows = capturing.vllm_rows(LOGITS / 2, OF, 5)
    file = capturing.write_jsonl(tmp_path / "scored.jsonl", rows)
    manifest = importing("jsonl", [file], tmp_path / "cache", temperature=2.0)
    assert manifest.header.compute["import"]["answers"] == [2.0]
    targets = open_cache(tmp_path / "cache").read(0, 1).targets()
    ids, log_p = capturing.likeliest(capturing.log_softmax(LOGITS[OF[0][:-1]] / 2), 5)
    assert targets.ids_PE.tolist() == ids.tolist()
    np.testing.assert_allclose(targets.log_probs(2.0), log_p, atol=2e-6)
    with pytest.raises(
        ConfigError, match="temperature 1 is not in the cache: its records were captured elsewhere at 2"
    ):
        targets.log_probs(1.0)


def test_what_top_p_left_out_is_in_the_tail(importing: Import, tmp_path: Path) -> None:
    samples = np.stack(capturing.texts(LOGITS, 8, 24))
    capturing.write_megatron(tmp_path / "shards", LOGITS, samples, p=0.9)
    np.save(tmp_path / "tokens.npy", samples)
    importing("megatron", [tmp_path / "shards"], tmp_path / "cache", tokens=str(tmp_path / "tokens.npy"))
    targets = open_cache(tmp_path / "cache").read(0, 1).targets()
    assert targets.num_certain_P.min() == 1
    assert torch.allclose(targets.coverage(1.0) + targets.tail_mass(1.0), torch.ones(23), atol=1e-6)
