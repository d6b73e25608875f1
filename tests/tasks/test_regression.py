"""Regression: from rows with scores to a table of errors."""

import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classes import MOODS, moods
from tasks.small_runs import dump, make_teacher, train

from kdcache import CacheWriter, loss_terms, open_cache
from kdcache.errors import CacheError, ConfigError, CorpusError, TeacherError
from kdcache.losses.term import make_term
from kdcache.report.evaluate import columns_of, evaluate_students, render
from kdcache.report.inspect import describe
from kdcache.store.verify import verify
from kdcache.students.collate import Collator
from kdcache.students.deployed import usage

TASK = {"name": "regression"}


def scored(count: int, outputs: int = 1, seed: int = 0) -> list[dict[str, Any]]:
    """Texts with four times the share of their bright words, and its square; every tenth without a label."""
    rows = moods(count, seed)
    for number, row in enumerate(rows):
        words = row["text"].split()
        share = 4 * sum(word in MOODS["bright"] for word in words) / len(words)
        scores: Any = share if outputs == 1 else [share, share**2]
        row["label"] = (math.nan if outputs == 1 else None) if number % 10 == 9 else scores
    return rows


@pytest.fixture(scope="module", params=[1, 2])
def made(request: pytest.FixtureRequest, tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("regression")
    outputs = request.param
    teacher = make_teacher(root / "teacher", num_labels=outputs, problem_type="regression")
    caches = {
        name: dump(root / name, root / "teacher", TASK, scored(count, outputs, seed))
        for name, count, seed in (("train", 96, 0), ("held-out", 40, 1))
    }
    return {"root": root, "teacher": teacher, "outputs": outputs, **caches}


def test_the_record_is_what_the_teacher_gives(made: dict[str, Any]) -> None:
    cache, outputs = made["train"], made["outputs"]
    batch = cache.read(0, len(cache))
    assert verify(str(made["root"] / "train")) == []
    assert batch.labels.shape == (96, outputs)
    assert batch.labels.dtype == np.float32
    assert np.isnan(batch.labels).all(1).sum() == 9
    assert cache.manifest.totals.notes["unlabelled"] == 9
    with torch.no_grad():
        expected = [made["teacher"](torch.from_numpy(batch.tokens(i))[None]).logits[0] for i in range(len(batch))]
    torch.testing.assert_close(batch.targets().logits_PE, torch.stack(expected), rtol=1e-5, atol=1e-5)
    assert cache.manifest.header.class_names == (["score"] if outputs == 1 else ["0", "1"])
    known = ~np.isnan(batch.labels)
    error = (np.stack([row.numpy() for row in expected]) - batch.labels)[known]
    assert describe(str(made["root"] / "train"))["score"]["mse"] == pytest.approx((error**2).mean(), rel=1e-4)


@pytest.mark.parametrize("against", ["teacher", "labels"])
def test_a_student_learns_the_scores(made: dict[str, Any], against: str) -> None:
    root, cache = made["root"], made["train"]
    terms = [{"name": "squared_error", "against": against}]
    if made["outputs"] > 1:
        terms.append({"name": "cosine", "against": against, "weight": 0.1})
    losses = train(cache, root / f"student-{against}", terms, steps=120)
    assert np.mean(losses[-5:]) < 0.6 * np.mean(losses[:5])
    teacher, fresh, row = evaluate_students(
        [str(root / f"student-{against}")], cache=str(root / "held-out"), untrained=True
    )
    assert teacher.keys() >= {"mse", "mae", "pearson", "spearman"}
    if against == "labels":
        assert row["mse"] < fresh["mse"]
        assert row["pearson"] > fresh["pearson"]
    table = render([teacher, fresh, row], columns_of(str(root / "held-out")))
    assert "MSE" in table
    assert "Spearman" in table
    assert "NLL" not in table


def test_the_squared_error_is_over_known_scores_alone(made: dict[str, Any]) -> None:
    cache, C = made["train"], made["outputs"]
    batch = cache.read(0, 20)
    from kdcache.losses.terms import LossTerms

    outputs_PC = torch.randn(20, C)
    supervision = Collator(made["teacher"], cache)(batch).supervision
    terms = LossTerms([make_term("squared_error", against="labels")], C)
    gradient_PC = outputs_PC.clone()
    (value,) = terms.value_and_gradient_(gradient_PC, supervision)
    known = ~np.isnan(batch.labels)
    assert value.item() == pytest.approx((((outputs_PC.numpy() - batch.labels) ** 2)[known]).sum() / C, rel=1e-5)
    assert not gradient_PC[torch.from_numpy(~known)].any()


def test_what_is_no_regression(made: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"whose outputs are scores and no distribution .regression., expected terms"):
        loss_terms([{"name": "cross_entropy"}], made["train"])
    with pytest.raises(TeacherError, match=r"got a teacher for regression .* see task.name: regression"):
        dump(tmp_path / "classes", made["root"] / "teacher", {"name": "sequence_classification"}, moods(4))
    make_teacher(tmp_path / "teacher", num_labels=2, problem_type="single_label_classification")
    with pytest.raises(TeacherError, match=r"got a teacher for single_label_classification .* one for regression"):
        dump(tmp_path / "scores", tmp_path / "teacher", TASK, scored(4, 2))
    with pytest.raises(CorpusError, match=r"got 3 scores, expected \d: "):
        dump(tmp_path / "many", made["root"] / "teacher", TASK, [{"text": "a", "label": [0.5] * 3}])
    with pytest.raises(CorpusError, match="label has 'high', expected a number or a list of numbers"):
        dump(tmp_path / "words", made["root"] / "teacher", TASK, [{"text": "a", "label": ["high"]}])


def test_labels_without_a_teacher(tmp_path: Path) -> None:
    cache = dump(tmp_path / "cache", "none", TASK, scored(30, 2), tokenizer=str(_tokenizer(tmp_path)))
    assert (cache.manifest.header.num_classes, cache.manifest.header.class_names) == (2, ["0", "1"])
    losses = train(cache, tmp_path / "student", [{"name": "squared_error", "against": "labels"}], steps=20)
    assert losses[-1] < losses[0]


def test_a_cache_of_another_engine(tmp_path: Path) -> None:
    settings = {"num_classes": 2, "task": TASK, "labels": ["warmth", "length"]}
    with CacheWriter(tmp_path / "cache", **settings) as writer:
        writer.add([1, 2], np.array([[0.5, -30.0]], np.float32), labels=[[1.0, np.nan]])
        with pytest.raises(CacheError, match=r"got labels \[1\], expected \[1, 2\]"):
            writer.add([1, 2], np.zeros((1, 2)), labels=[1.0])
        with pytest.raises(CacheError, match="labels hold infinity"):
            writer.add([1, 2], np.zeros((1, 2)), labels=[[1.0, np.inf]])
    batch = open_cache(tmp_path / "cache").read(0, 1)
    np.testing.assert_array_equal(batch.labels, [[1.0, np.nan]])
    np.testing.assert_allclose(batch.targets().logits_PE, [[0.5, -30.0]], rtol=1e-6)


def test_how_a_student_is_used(made: dict[str, Any]) -> None:
    assert 'function_to_apply="none"' in usage(made["teacher"], made["train"])


def _tokenizer(folder: Path) -> Path:
    from classes import word_piece

    word_piece().save_pretrained(folder / "tokenizer")
    return folder / "tokenizer"
