"""What a cache says of its teacher: sums in commit records, figures and warnings from the manifest alone."""

import json
import math
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import kdcache

from kdcache import CacheWriter, open_cache
from kdcache.report.inspect import describe, render
from kdcache.store.convert import convert
from kdcache.targets.dense import Dense
from kdcache.targets.fields import NO_LABEL
from kdcache.targets.kind import RecordKind
from kdcache.targets.sampled import Sampled
from kdcache.targets.top_k import TopK
from kdcache.tasks.language_score import counts_code

CLASSES = 50
RECORDS = {
    "sampled": Sampled(exact_top_k=4, samples=6),
    "one temperature": Sampled(exact_top_k=0, samples=6, curve={"temperatures": [1.0]}),
    "dense": Dense(logit_dtype="float32"),
}


def language(path: Path, *, knows: float, record: RecordKind, examples: int = 24) -> tuple[Any, float]:
    """A cache of random tokens, whose teacher's logits of the right one are `knows` higher; its exact mean loss."""
    rng = np.random.default_rng(0)
    losses = []
    with CacheWriter(path, num_classes=CLASSES, record=record, examples_per_shard=7) as writer:
        for _ in range(examples):
            tokens = rng.integers(0, CLASSES, rng.integers(2, 30))
            logits = rng.normal(0, 1, (len(tokens) - 1, CLASSES)).astype(np.float32)
            logits[np.arange(len(tokens) - 1), tokens[1:]] += knows
            losses += (
                -torch.from_numpy(logits).double().log_softmax(-1).numpy()[range(len(logits)), tokens[1:]]
            ).tolist()
            writer.add(tokens, logits)
    return open_cache(path), float(np.mean(losses))


@pytest.mark.parametrize("name", [*RECORDS])
def test_the_loss_of_a_language_model_is_that_of_its_logits(tmp_path: Path, name: str) -> None:
    cache, loss = language(tmp_path / "cache", knows=5, record=RECORDS[name])
    score = cache.manifest.totals.score
    assert score is not None
    assert score["labelled"] == cache.num_positions
    assert score["nano_nats"] / 1e9 / score["labelled"] == pytest.approx(loss, abs=2e-3)
    facts = describe(str(tmp_path / "cache"))
    assert facts["score"]["perplexity"] == pytest.approx(math.exp(loss), rel=2e-3)
    assert facts["score"]["warnings"] == []
    assert "score      perplexity" in render(facts)


def test_a_teacher_that_knows_nothing_of_the_language_gets_a_warning(tmp_path: Path) -> None:
    language(tmp_path / "cache", knows=0, record=RECORDS["sampled"])
    shown = kdcache("inspect", tmp_path / "cache").stdout
    assert "warning    the teacher's loss, 4." in shown
    assert f"is near or above {math.log(CLASSES):.2f}, what the counts of the labels alone give" in shown


def test_records_that_do_not_answer_one_have_no_score(tmp_path: Path) -> None:
    record = TopK(k=4, curve={"temperatures": [2.0]})
    cache, _ = language(tmp_path / "cache", knows=5, record=record)
    assert cache.manifest.totals.score is None
    assert describe(str(tmp_path / "cache"))["score"] is None


def test_the_code_of_counts_comes_near_the_entropy_of_long_texts() -> None:
    rng = np.random.default_rng(0)
    weights = 1 / np.arange(1, 2001)
    entropy = -(weights / weights.sum() * np.log(weights / weights.sum())).sum()
    labels = rng.choice(2000, 200_000, p=weights / weights.sum())
    assert entropy < counts_code(labels, 2000) / len(labels) < 1.02 * entropy
    assert counts_code(labels[:20], 2000) / 20 > entropy


def classes(
    path: Path,
    logits: np.ndarray,
    labels: np.ndarray,
    names: list[str] | None,
    *,
    examples_per_shard: int = 9,
    backend: Any = "zarr",
) -> Any:
    settings: dict = {"task": {"name": "sequence_classification"}, "labels": names, "backend": backend}
    with CacheWriter(
        path, num_classes=logits.shape[1], examples_per_shard=examples_per_shard, teacher="mine", **settings
    ) as writer:
        for row, label in zip(logits, labels, strict=True):
            writer.add([1, 2, 3], row[None], labels=[label])
    return open_cache(path)


def biased(count: int, size: int, right: float, seed: int = 0) -> tuple[np.ndarray, np.ndarray]:
    """(logits, labels) of a teacher that is right with this probability."""
    rng = np.random.default_rng(seed)
    labels = rng.integers(0, size, count)
    said = np.where(rng.random(count) < right, labels, rng.integers(0, size, count))
    return rng.normal(0, 0.3, (count, size)) + 4 * np.eye(size)[said], labels


@pytest.mark.parametrize("size", [2, 7, 30])
def test_the_accuracy_of_a_classification(tmp_path: Path, size: int) -> None:
    logits, labels = biased(200, size, 0.8)
    labels[::11] = NO_LABEL
    known = labels != NO_LABEL
    cache = classes(tmp_path / "cache", logits.astype(np.float32), labels, [f"c{i}" for i in range(size)])
    facts = describe(str(tmp_path / "cache"))["score"]
    assert facts["accuracy"] == (logits.argmax(1) == labels)[known].mean()
    assert facts["majority_share"] == np.bincount(labels[known]).max() / known.sum()
    log_probs = torch.from_numpy(logits).log_softmax(-1).numpy()
    assert facts["label_nll"] == pytest.approx(-log_probs[known, labels[known]].mean(), abs=1e-3)
    assert facts["warnings"] == []
    confusion = cache.manifest.totals.score["confusion"]
    assert ("-1" in {predicted for row in confusion.values() for predicted in row}) == (size > 20)


def test_another_order_of_the_labels_is_named(tmp_path: Path) -> None:
    """The names of a teacher's LABEL_0, LABEL_1, LABEL_2 are given as b, c, a where they are a, b, c."""
    logits, truth = biased(300, 3, 0.95)
    given = np.array([2, 0, 1])  # a is id 2 of b, c, a
    cache = classes(tmp_path / "cache", logits.astype(np.float32), given[truth], ["b", "c", "a"])
    facts = describe(str(tmp_path / "cache"))["score"]
    assert facts["best_order"] == ["a", "b", "c"]
    assert len(facts["warnings"]) == 2
    assert "is no better than chance" in facts["warnings"][0]
    assert facts["warnings"][1].endswith("task.labels: [a, b, c]")
    right = classes(tmp_path / "right", logits.astype(np.float32), truth, facts["best_order"])
    assert right.manifest.totals.score["confusion"] != cache.manifest.totals.score["confusion"]
    assert describe(str(tmp_path / "right"))["score"]["warnings"] == []


def test_chance_of_one_class_and_of_few_rows(tmp_path: Path) -> None:
    """One label alone is no chance level; an order that few rows speak for is not proposed."""
    logits = np.eye(3)[[0, 0, 0, 0, 0, 0, 1, 0]] * 5
    classes(tmp_path / "one", logits.astype(np.float32), np.zeros(8, int), None)
    assert describe(str(tmp_path / "one"))["score"]["warnings"] == []
    classes(tmp_path / "few", logits.astype(np.float32), np.array([1, 1, 0, 1, 0, 1, 0, 1]), None)
    assert all("another order" not in warning for warning in describe(str(tmp_path / "few"))["score"]["warnings"])


def test_sums_do_not_depend_on_shards_nor_on_their_format(tmp_path: Path) -> None:
    logits, labels = biased(60, 4, 0.7)
    scores = [
        classes(tmp_path / f"{size}", logits.astype(np.float32), labels, None, examples_per_shard=size)
        for size in (60, 7)
    ]
    first, second = (cache.manifest.totals.score for cache in scores)
    assert first["confusion"] == second["confusion"]
    assert abs(first["nano_nats"] - second["nano_nats"]) <= 60
    convert(tmp_path / "7", tmp_path / "arrow", "arrow")
    assert open_cache(tmp_path / "arrow").manifest.totals.score == second
    manifest = json.loads((tmp_path / "7" / "cache.json").read_text())
    manifest["totals"]["score"]["labelled"] += 1
    (tmp_path / "7" / "cache.json").write_text(json.dumps(manifest, sort_keys=True, indent=1) + "\n")
    assert "has a score that is not the sum" in kdcache("verify", tmp_path / "7").stdout


@pytest.mark.parametrize("banned", [-1e9, -np.inf])
def test_banned_labels_cost_a_finite_loss(tmp_path: Path, banned: float) -> None:
    logits = np.zeros((4, 3), np.float32)
    logits[:, 2] = banned
    classes(tmp_path / "cache", logits, np.array([0, 1, 2, 2]), None)
    expected = (2 * math.log(2) + 2 * 240) / 4
    assert describe(str(tmp_path / "cache"))["score"]["label_nll"] == pytest.approx(expected, abs=1)
    assert kdcache("verify", tmp_path / "cache").returncode == 0
