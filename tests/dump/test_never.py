"""A teacher whose head bans classes with −inf, as a dump meets it."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import make_tokenizer, sentences, write_jsonl
from transformers import PhiConfig, PhiForCausalLM

import kdcache
from kdcache.dump.run import run_dump
from kdcache.launcher import World

BANNED = slice(1, 60, 2)


@pytest.fixture(scope="module")
def banning(tmp_path_factory: pytest.TempPathFactory) -> Path:
    folder = tmp_path_factory.mktemp("banning")
    make_tokenizer(folder)
    torch.manual_seed(0)
    config = PhiConfig(
        vocab_size=320,
        hidden_size=32,
        intermediate_size=64,
        num_hidden_layers=2,
        num_attention_heads=4,
        initializer_range=0.3,
        max_position_embeddings=128,
        bos_token_id=None,
        eos_token_id=0,
    )
    model = PhiForCausalLM(config)
    with torch.no_grad():
        model.lm_head.bias[BANNED] = -torch.inf
    model.save_pretrained(folder)
    return folder


@pytest.mark.parametrize(
    "record",
    [{"kind": "dense", "logit_dtype": "uint16"}, {"exact_top_k": 8}, {"kind": "factored", "rank": "full"}],
    ids=["dense", "sampled", "factored"],
)
def test_banned_classes_are_never_given(make_config: Callable, banning: Path, tmp_path: Path, record: dict) -> None:
    corpus = {"unit_rows": 40, "paths": str(write_jsonl(tmp_path / "some.jsonl", sentences(12)))}
    teacher = {"path": str(banning), "dtype": "float32"}
    run_dump(make_config(tmp_path / "cache", teacher=teacher, record=record, corpus=corpus), World())
    cache = kdcache.open_cache(tmp_path / "cache")
    targets = cache.read(0, 1).targets()
    model = PhiForCausalLM.from_pretrained(banning).eval()
    batch = cache.read(0, 1)
    first = int(batch.documents(0)[0])
    with torch.no_grad():
        logits_LV = model(torch.from_numpy(batch.tokens(0)[:first])[None]).logits[0]
    rows = torch.from_numpy(batch.positions(0)[batch.positions(0) < first])
    for temperature in (1.0, 8.0):
        exact_PV = (logits_LV[rows].double() / temperature).log_softmax(-1)
        got_P = targets.log_partition(temperature)[: len(rows)].double()
        torch.testing.assert_close(got_P, (logits_LV[rows].double() / temperature).logsumexp(-1), rtol=0, atol=6e-3)
        if targets.knows_every_class:
            p_PV = targets.dense_log_probs(temperature)[: len(rows)].exp().double()
            assert (p_PV[:, BANNED] == 0).all()
            torch.testing.assert_close(p_PV, exact_PV.exp(), rtol=0, atol=2e-2)
        else:
            kept = set(targets.ids_PE[targets.inclusion_PE > 0].tolist())
            assert not kept & {*range(320)[BANNED]}
    assert cache.manifest.totals.score is not None
