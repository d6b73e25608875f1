"""A record kind of one's own, through every command as the built-in kinds go."""

import json
from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from extending.label_only import LabelOnly
from own_loop import LLAMA

import kdcache
from kdcache.targets.registry import RECORDS

MODULE = "extending.label_only"


def test_what_it_answers_is_the_labels_own() -> None:
    logits_PV, labels_P = torch.randn(40, 30) * 3, torch.randint(0, 30, (40,))
    targets = kdcache.compress(logits_PV, LabelOnly(temperatures=(1.0, 2.0)), labels_P=labels_P)
    for temperature in (1.0, 2.0):
        own_P = (logits_PV / temperature).log_softmax(-1).gather(1, labels_P[:, None])[:, 0]
        torch.testing.assert_close(targets.log_probs(temperature)[:, 0], own_P, rtol=1e-4, atol=1e-5)
        torch.testing.assert_close(targets.tail_mass(temperature), 1 - own_P.exp(), rtol=1e-4, atol=1e-5)
        student_PV = torch.randn(40, 30)
        q_P = (student_PV / temperature).softmax(-1).gather(1, labels_P[:, None])[:, 0]
        p_P = own_P.exp()
        expected_P = p_P * (p_P / q_P).log() + (1 - p_P) * ((1 - p_P) / (1 - q_P)).log()
        got_P = kdcache.distillation_loss(
            student_PV, targets, temperature=temperature, temperature_squared=False, reduction="none"
        )
        torch.testing.assert_close(got_P, expected_P, rtol=1e-3, atol=1e-4)
    with pytest.raises(kdcache.ConfigError, match="temperature 4 is not in the cache"):
        targets.log_partition(4.0)


def test_through_dump_verify_train_and_eval(
    command: Callable, language_model: Callable, train: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache, dense = tmp_path / "cache", tmp_path / "dense"
    command("dump-logits", language_model(cache, module=MODULE, record={"kind": "label"}))
    command("dump-logits", language_model(dense, record={"kind": "dense", "logit_dtype": "float32"}))
    header = kdcache.open_cache(cache).manifest.header
    assert header.records == (LabelOnly(),)
    scores = [kdcache.open_cache(folder).manifest.totals.score for folder in (cache, dense)]
    assert scores[0]["nano_nats"] == pytest.approx(scores[1]["nano_nats"], rel=1e-4)
    command("verify", cache, "--module", MODULE)
    assert "every digest and count is right" in capsys.readouterr().out
    losses = train(cache, tmp_path / "student", LLAMA, [{"name": "divergence"}])
    assert losses[-1] < losses[0]
    capsys.readouterr()
    command("eval", tmp_path / "student", "--cache", cache, "--untrained", "--json", "--module", MODULE)
    teacher, untrained, student = json.loads(capsys.readouterr().out)
    assert teacher["kl"] == 0 < student["kl"] < untrained["kl"]


def test_who_has_not_registered_it_is_told_how(
    command: Callable, language_model: Callable, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    command("dump-logits", language_model(tmp_path / "cache", module=MODULE, record={"kind": "label"}))
    monkeypatch.delitem(RECORDS._found, "label")
    with pytest.raises(kdcache.CacheError, match="or a module of yours that registers it: feature record/label"):
        kdcache.open_cache(tmp_path / "cache")
