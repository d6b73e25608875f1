import math
from pathlib import Path

import numpy as np
import pytest
import torch
from helpers import make_tokenizer
from train.tiny import student_config, write_cache

import kdcache
from kdcache.errors import CacheError, StudentError
from kdcache.launcher import World
from kdcache.store.cache import open_cache
from kdcache.students.collate import Collator
from kdcache.students.held_out import held_out_batches
from kdcache.students.making import make_student
from kdcache.students.scoring import check_held_out, evaluate_model, evaluate_whole
from kdcache.students.settings import StudentConfig
from kdcache.targets.dense import Dense


def test_figures_are_those_of_whole_logits(tmp_path: Path) -> None:
    """Dense records, so that the divergence is exact; batches of 4 of 10 examples; the student is wider."""
    dense = Dense(logit_dtype="float32")
    cache = open_cache(write_cache(tmp_path / "cache", examples=10, record=dense))
    model = make_student(StudentConfig(config=student_config(vocab_size=310)), cache, 0)
    done: list[int] = []
    figures = evaluate_model(model, cache, batch_examples=4, chunk=5, progress=done.append)
    assert done == [4, 4, 2]

    inputs = Collator(model, cache)(cache.read(0, 10))
    arguments = inputs.model.arguments
    with torch.no_grad():
        logits_PV = model.eval()(**arguments, use_cache=False).logits.flatten(0, 1)[inputs.flat_P]
    supervision = inputs.supervision
    assert supervision.targets is not None
    log_q_PV, log_p_PV = logits_PV.log_softmax(-1), supervision.targets.dense_log_probs(1.0)
    labels_P1 = supervision.labels_P[:, None]
    nll = -log_q_PV.gather(1, labels_P1).mean().item()
    assert figures == pytest.approx(
        {
            "positions": cache.num_positions,
            "label_nll": nll,
            "teacher_label_nll": -log_p_PV.gather(1, labels_P1).mean().item(),
            "kl": (log_p_PV.exp() * (log_p_PV - log_q_PV[:, :300])).sum(-1).mean().item(),
            "agreement": (log_q_PV.argmax(-1) == log_p_PV.argmax(-1)).float().mean().item(),
            "accuracy": (log_q_PV.argmax(-1) == supervision.labels_P).float().mean().item(),
            "perplexity": math.exp(nll),
        },
        rel=1e-3,
    )
    first = evaluate_model(model, cache, max_examples=3)
    assert first["positions"] == cache.read(0, 3).num_positions


def test_a_label_only_cache_gives_the_figures_that_need_no_teacher(tmp_path: Path) -> None:
    cache = open_cache(write_cache(tmp_path / "cache", examples=4, record=None))
    model = make_student(StudentConfig(config=student_config()), cache, 0)
    assert evaluate_model(model, cache).keys() == {"positions", "label_nll", "accuracy", "perplexity"}


def test_a_model_with_too_few_classes_is_refused(tmp_path: Path) -> None:
    cache = open_cache(write_cache(tmp_path / "cache", examples=4))
    other = open_cache(write_cache(tmp_path / "other", examples=4, classes=301))
    model = make_student(StudentConfig(config=student_config()), cache, 0)
    with pytest.raises(StudentError, match="got a student with 300 classes"):
        evaluate_model(model, other)


def test_a_held_out_cache_that_does_not_go_with_the_training_cache(tmp_path: Path) -> None:
    cache = open_cache(write_cache(tmp_path / "cache", examples=4))
    with pytest.raises(CacheError, match="has 301 classes, expected the 300 of"):
        check_held_out(open_cache(write_cache(tmp_path / "wide", examples=4, classes=301)), cache)
    from transformers import AutoTokenizer

    make_tokenizer(tmp_path / "tokenizer")
    tokenizer = AutoTokenizer.from_pretrained(tmp_path / "tokenizer", model_max_length=77)
    tokenizer.save_pretrained(tmp_path / "same")
    tokenizer.add_special_tokens({"bos_token": "cache"})
    tokenizer.save_pretrained(tmp_path / "other")
    caches = {
        name: open_cache(write_cache(tmp_path / f"of-{name}", examples=4, classes=320, tokenizer=tmp_path / name))
        for name in ("tokenizer", "same", "other")
    }
    check_held_out(caches["same"], caches["tokenizer"])
    with pytest.raises(CacheError, match="was made with another tokenizer"):
        check_held_out(caches["other"], caches["tokenizer"])
    with pytest.raises(CacheError, match="has no supervised position"):
        check_held_out(open_cache(write_cache(tmp_path / "empty", examples=4, unsupervised=1.0)), cache)


def test_batches_are_of_like_length_and_predictions_come_in_the_order_of_the_cache(tmp_path: Path) -> None:
    rng = np.random.default_rng(0)
    how = {"num_classes": 3, "record": Dense(), "task": {"name": "sequence_classification"}, "labels": ["a", "b", "c"]}
    with kdcache.CacheWriter(tmp_path / "cache", **how) as writer:
        for label in rng.integers(0, 3, 64):
            tokens = rng.integers(5, 90, rng.integers(3, 60))
            writer.add(tokens, rng.normal(size=(1, 3)).astype(np.float32), labels=np.array([label]))
    cache = kdcache.open_cache(tmp_path / "cache")
    sizes = {"hidden_size": 16, "intermediate_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2}
    config = {"model_type": "bert", "vocab_size": 90, "max_position_embeddings": 64, **sizes}
    model = make_student(StudentConfig(config=config), cache, 0)

    for size in (2, 5):
        worlds = [World(rank, 3) for rank in range(3)]
        ranks = [[*held_out_batches(cache, world, model, size, 61)] for world in worlds]
        assert len({*map(len, ranks)}) == 1
        every = [held_out for rank in ranks for held_out in rank if held_out.batch is not None]
        assert sorted(np.concatenate([held_out.examples_P for held_out in every]).tolist()) == [*range(61)]
        padded = sum(held_out.inputs.real_BL.numel() for held_out in every)
        assert padded < 1.25 * sum(cache.read(0, 61).lengths)
    figures, one_by_one = evaluate_whole(model, cache, batch_examples=1)
    again, sorted_ = evaluate_whole(model, cache, batch_examples=5)
    assert one_by_one is not None
    assert sorted_ is not None
    assert again == pytest.approx(figures, rel=1e-5)
    np.testing.assert_array_equal(sorted_.labels_P, cache.read(0, 64).labels)
    np.testing.assert_allclose(sorted_.outputs_PC, one_by_one.outputs_PC, atol=1e-5)
