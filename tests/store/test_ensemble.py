"""ensemble: the weighted mean of several teachers, against the dense mean of their own logits in float64."""

from collections.abc import Callable
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from click.testing import CliRunner
from store.making import tree

from kdcache import CacheWriter, open_cache
from kdcache.cli import cli
from kdcache.errors import CacheError, KdcacheError
from kdcache.store.ensemble import ensemble
from kdcache.store.verify import verify
from kdcache.targets.dense import Dense
from kdcache.targets.drawn import Drawn
from kdcache.targets.sampled import Sampled
from kdcache.targets.top_k import TopK

CLASSES, HIDDEN = 50, 16
EXACT = {"kind": "dense", "logit_dtype": "float32"}
LABELS = [f"class {i}" for i in range(4)]


def lengths(examples: int) -> list[int]:
    return [4 + number % 5 for number in range(examples)]


def write_language(path: Path, seed: int, record: Any = EXACT, per_shard: int = 5, tokens_seed: int = 0) -> np.ndarray:
    """A cache of one corpus for all seeds. Returns the teacher's logits at all positions, float64."""
    rng, of_text = np.random.default_rng(seed + 1), np.random.default_rng(tokens_seed)
    weight = rng.normal(size=(CLASSES, HIDDEN)).astype(np.float32)
    hidden = [rng.normal(size=(length - 1, HIDDEN)).astype(np.float32) for length in lengths(12)]
    factored = isinstance(record, dict) and record["kind"] == "factored"
    settings: dict[str, Any] = {"num_classes": CLASSES, "record": record, "examples_per_shard": per_shard}
    if factored:
        settings |= {"output_layer": (torch.from_numpy(weight), None), "calibration": np.concatenate(hidden)}
    logits = [hidden_PD @ weight.T for hidden_PD in hidden]
    with CacheWriter(path, teacher=f"teacher {seed}", **settings) as writer:
        for length, hidden_PD, logits_PV in zip(lengths(12), hidden, logits, strict=True):
            tokens = of_text.integers(0, CLASSES, length)
            if factored:
                writer.add(tokens, hidden=hidden_PD)
            else:
                writer.add(tokens, logits_PV)
    return np.concatenate(logits).astype(np.float64)


def write_classes(path: Path, seed: int, name: str = "sequence_classification", record: Any = EXACT) -> np.ndarray:
    rng = np.random.default_rng(seed + 1)
    logits_PC = rng.normal(0, 4, size=(12, len(LABELS))).astype(np.float32)
    labels: dict[str, Callable[[int], Any]] = {
        "sequence_classification": lambda i: [i % 4],
        "multilabel_classification": lambda i: [[i % 2, 0, 1, 1]],
        "regression": lambda i: [[float(i), np.nan, 1.0, 2.0]],
    }
    settings = {"labels": LABELS, "record": record, "task": {"name": name}, "examples_per_shard": 5}
    with CacheWriter(path, num_classes=len(LABELS), teacher=f"teacher {seed}", **settings) as writer:
        for i in range(12):
            writer.add([1, 2, i], logits_PC[i : i + 1], labels=labels[name](i))
    return logits_PC.astype(np.float64)


def softmax(logits: np.ndarray) -> np.ndarray:
    return np.asarray(torch.from_numpy(logits).softmax(-1).numpy())


def mean(logits: list[np.ndarray], weights: list[float]) -> np.ndarray:
    return sum(w / sum(weights) * softmax(one) for w, one in zip(weights, logits, strict=True))


def probabilities(path: Path) -> np.ndarray:
    """What a reader gets back."""
    cache = open_cache(path)
    return np.asarray(cache.read(0, len(cache)).targets().dense_log_probs(1.0).double().exp().numpy())


def kl(p: np.ndarray, q: np.ndarray) -> np.ndarray:
    """In nats; the terms − p + q take out what q misses 1 by in float32."""
    return np.asarray((p * (np.log(p) - np.log(q)) - p + q).sum(-1))


@pytest.mark.parametrize(
    ("record", "nats"), [(EXACT, 1e-11), ({"kind": "dense"}, 1e-6), ({"kind": "factored", "rank": "full"}, 2e-3)]
)
def test_a_language_model_has_the_dense_mean(tmp_path: Path, record: Any, nats: float) -> None:
    """Exact where records are; of float16 and factored ones to what their own rounding is."""
    weights, paths = [2.0, 1.0, 0.5], [tmp_path / str(seed) for seed in range(3)]
    logits = [write_language(path, seed, record, per_shard=4 + seed) for seed, path in enumerate(paths)]
    ensemble(paths, tmp_path / "mean", weights, EXACT)
    expected = mean(logits, weights)
    assert kl(expected, probabilities(tmp_path / "mean")).max() < nats
    stored = [probabilities(path) for path in paths]
    of_stored = sum(w / 3.5 * p for w, p in zip(weights, stored, strict=True))
    assert np.abs(of_stored / probabilities(tmp_path / "mean") - 1).max() < 1e-5
    if record != EXACT:
        assert kl(expected, probabilities(tmp_path / "mean")).max() > 1e-9
    assert verify(tmp_path / "mean") == []


def test_a_classification_has_the_dense_mean(tmp_path: Path) -> None:
    logits = [write_classes(tmp_path / str(seed), seed) for seed in range(2)]
    ensemble([tmp_path / "0", tmp_path / "1"], tmp_path / "mean")
    expected = mean(logits, [1, 1])
    assert np.abs(probabilities(tmp_path / "mean") / expected - 1).max() < 1e-5
    cache, first = open_cache(tmp_path / "mean"), open_cache(tmp_path / "0")
    assert np.array_equal(cache.read(0, 12).labels, first.read(0, 12).labels)
    assert cache.manifest.header.records == first.manifest.header.records


def test_classes_that_do_not_exclude_each_other_have_a_mean_each(tmp_path: Path) -> None:
    logits = [write_classes(tmp_path / str(seed), seed, "multilabel_classification") for seed in range(2)]
    ensemble([tmp_path / "0", tmp_path / "1"], tmp_path / "mean", [3, 1])
    found = open_cache(tmp_path / "mean").read(0, 12).targets().logits_PE.double().sigmoid().numpy()
    expected = 0.75 / (1 + np.exp(-logits[0])) + 0.25 / (1 + np.exp(-logits[1]))
    assert np.abs(found / expected - 1).max() < 1e-5
    assert np.abs((1 - found) / (1 - expected) - 1).max() < 1e-4


def test_scores_have_their_mean(tmp_path: Path) -> None:
    scores = [write_classes(tmp_path / str(seed), seed, "regression") for seed in range(2)]
    ensemble([tmp_path / "0", tmp_path / "1"], tmp_path / "mean", [3, 1])
    found = open_cache(tmp_path / "mean").read(0, 12).targets().logits_PE.numpy()
    assert np.abs(found - (0.75 * scores[0] + 0.25 * scores[1])).max() < 1e-5


def test_a_sample_of_the_mean_is_unbiased_and_keyed_by_the_example(tmp_path: Path) -> None:
    """The same draws as a dump of one teacher that gives the mean, whose seed and example numbers are the first's."""
    logits = [write_language(tmp_path / str(seed), seed) for seed in range(2)]
    record = {"kind": "sampled", "exact_top_k": 4, "samples": 6}
    ensemble([tmp_path / "0", tmp_path / "1"], tmp_path / "mean", record=record)
    expected, start = np.log(mean(logits, [1, 1])), 0
    rng = np.random.default_rng(0)
    with CacheWriter(tmp_path / "one", num_classes=CLASSES, record=record, examples_per_shard=5) as writer:
        for length in lengths(12):
            stop = start + length - 1
            writer.add(rng.integers(0, CLASSES, length), expected[start:stop].astype(np.float32))
            start = stop
    ours, theirs = (open_cache(tmp_path / name).read(0, 12) for name in ("mean", "one"))
    assert np.array_equal(ours.arrays["entry_counts"], theirs.arrays["entry_counts"])
    assert np.mean(ours.arrays["ids"] == theirs.arrays["ids"]) > 0.99


def test_the_header_names_every_teacher(tmp_path: Path) -> None:
    for seed in range(2):
        write_language(tmp_path / str(seed), seed)
    header = ensemble([tmp_path / "0", tmp_path / "1"], tmp_path / "mean", [3, 1]).header
    assert header.teacher is not None
    assert header.teacher.name == "the mean of 0.75 teacher 0, 0.25 teacher 1"
    assert header.sources is not None
    found = [(pin.cache_sha256, pin.weight, pin.teacher and pin.teacher.name) for pin in header.sources]
    digests = [open_cache(tmp_path / str(seed)).digest for seed in range(2)]
    assert found == [(digests[0], 0.75, "teacher 0"), (digests[1], 0.25, "teacher 1")]
    shown = CliRunner().invoke(cli, ["inspect", str(tmp_path / "mean")]).output
    assert "teacher teacher 1, weight 0.25" in shown


def test_one_that_was_killed_goes_on_with_the_same_bytes(tmp_path: Path) -> None:
    for seed in range(2):
        write_language(tmp_path / str(seed), seed)
    sources = [tmp_path / "0", tmp_path / "1"]
    ensemble(sources, tmp_path / "whole")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    for _ in range(2):
        with pytest.raises(KeyboardInterrupt):
            ensemble(sources, tmp_path / "killed", progress=interrupt)
    assert not (tmp_path / "killed" / "cache.json").exists()
    done: list[int] = []
    ensemble(sources, tmp_path / "killed", progress=done.append)
    assert sum(done) == 3
    assert tree(tmp_path / "killed") == tree(tmp_path / "whole")
    ensemble(sources, tmp_path / "killed")
    with pytest.raises(CacheError, match="already holds another finished cache"):
        ensemble(sources, tmp_path / "killed", [2, 1])


def refused(paths: list[Path], tmp_path: Path, *arguments: str) -> str:
    """What the command says, in one line; nothing is left."""
    result = CliRunner().invoke(cli, ["ensemble", *map(str, paths), "--out", str(tmp_path / "out"), *arguments])
    assert isinstance(result.exception, KdcacheError), result.output
    words = str(result.exception)
    assert "\n" not in words
    assert result.exception.exit_status in (1, 2)
    assert not (tmp_path / "out").exists()
    return words


@pytest.mark.parametrize("record", [Sampled(), TopK(k=5), Drawn(samples=5)])
def test_records_of_a_part_of_a_distribution_are_refused(tmp_path: Path, record: Any) -> None:
    write_language(tmp_path / "0", 0)
    write_language(tmp_path / "1", 1, record)
    words = refused([tmp_path / "0", tmp_path / "1"], tmp_path)
    assert f"1 holds {record.kind} records, which keep a part of each distribution" in words
    assert "expected dense or factored ones" in words


def test_mistakes_are_refused_in_one_line(tmp_path: Path) -> None:
    write_language(tmp_path / "0", 0)
    write_language(tmp_path / "1", 1)
    both = [tmp_path / "0", tmp_path / "1"]
    assert "got 1 cache for an ensemble" in refused(both[:1], tmp_path)
    assert "got 3 weights for 2 caches" in refused(both, tmp_path, "--weights", "1,2,3")
    assert "got --weights 1,b, expected a number" in refused(both, tmp_path, "--weights", "1,b")
    for weight in ("0", "-1", "nan", "inf"):
        assert "expected a finite number above 0" in refused(both, tmp_path, "--weights", f"1,{weight}")
    assert "the same cache as" in refused([both[0], both[0]], tmp_path)
    assert "got --record {kind, which" in refused(both, tmp_path, "--record", "{kind")
    assert "expected one kind of distribution" in refused(both, tmp_path, "--record", "{kind: features}")
    assert "got record factored, expected one that needs no output layer" in refused(
        both, tmp_path, "--record", "{kind: factored, rank: full}"
    )


def test_caches_that_do_not_go_together_are_refused(tmp_path: Path) -> None:
    first = tmp_path / "first"
    write_language(first, 0)
    write_language(tmp_path / "text", 1, tokens_seed=5)
    assert "their example 0 has other tokens" in refused([first, tmp_path / "text"], tmp_path)
    with CacheWriter(tmp_path / "short", num_classes=CLASSES, record=Dense()) as writer:
        writer.add([1, 2, 3], np.zeros((2, CLASSES), np.float32))
    assert "the one has 1 examples, the other 12" in refused([first, tmp_path / "short"], tmp_path)
    with CacheWriter(tmp_path / "wide", num_classes=CLASSES + 1, record=Dense()) as writer:
        writer.add([1, 2, 3], np.zeros((2, CLASSES + 1), np.float32))
    assert f"it has {CLASSES + 1} classes, expected {CLASSES}" in refused([first, tmp_path / "wide"], tmp_path)
    write_classes(tmp_path / "classes", 0)
    assert "it is of sequence_classification" in refused([first, tmp_path / "classes"], tmp_path)
    with CacheWriter(tmp_path / "bare", num_classes=CLASSES, record=None) as writer:
        writer.add([1, 2, 3])
    assert "bare holds no teacher's distributions" in refused([first, tmp_path / "bare"], tmp_path)
    factored = {"kind": "factored", "rank": "full"}
    for seed in range(2):
        write_language(tmp_path / f"factored{seed}", seed, factored)
    words = refused([tmp_path / "factored0", tmp_path / "factored1"], tmp_path)
    assert "got record factored, that of" in words
    assert "give --record '{kind: sampled}'" in words
