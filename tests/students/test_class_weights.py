from pathlib import Path
from typing import Any

import numpy as np
import pytest
from train.tiny import write_cache

from kdcache import CacheWriter, Mixture
from kdcache.config.file import load_config
from kdcache.errors import ConfigError
from kdcache.losses.term import Term, make_term
from kdcache.store.cache import Cache, open_cache
from kdcache.students.class_weights import class_weights


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    """Labels 0, 0, 0, 1, none."""
    task = {"name": "sequence_classification"}
    with CacheWriter(tmp_path / "cache", num_classes=3, task=task, record=None, labels=["0", "true", "c"]) as writer:
        for label in (0, 0, 0, 1, -100):
            writer.add([1, 2], labels=[label])
    return open_cache(tmp_path / "cache")


def terms(**settings: Any) -> list[Term]:
    return [make_term(name="divergence"), make_term(name="cross_entropy", **settings)]


def test_weights_by_label_and_balanced_ones(cache: Cache) -> None:
    assert class_weights(terms(), cache) == {}
    assert class_weights(terms(class_weights={0: 2, True: 0.5}), cache) == {1: [2.0, 0.5, 1.0]}
    (balanced,) = class_weights(terms(class_weights="balanced"), cache).values()
    assert balanced == pytest.approx([4 / 6, 4 / 2, 1.0])
    assert np.dot(balanced[:2], [3, 1]) / 4 == pytest.approx(1.0)


def test_labels_of_a_mixture_count_as_often_as_they_come(cache: Cache, tmp_path: Path) -> None:
    """Three of four samples are from a cache of 2 examples of labels 1 and 2: 15 of these in 5 of the other's."""
    task = {"name": "sequence_classification"}
    with CacheWriter(tmp_path / "other", num_classes=3, task=task, record=None, labels=["0", "true", "c"]) as writer:
        for label in (1, 2):
            writer.add([1, 2, 3], labels=[label])
    mixture = Mixture([(cache, 1), (open_cache(tmp_path / "other"), 3)])
    (balanced,) = class_weights(terms(class_weights="balanced"), mixture).values()
    assert balanced == pytest.approx([19 / 3 / n for n in (3, 1 + 7.5, 7.5)])


def test_weights_that_cannot_be(cache: Cache, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="got class_weights of d, expected some of the cache's: 0, true, c"):
        class_weights(terms(class_weights={"d": 2}), cache)
    language = open_cache(write_cache(tmp_path / "language", examples=4))
    with pytest.raises(ConfigError, match="a cache without names of classes"):
        class_weights(terms(class_weights="balanced"), language)
    from kdcache.train.settings import TrainConfig

    (tmp_path / "run.yaml").write_text(
        "{cache: c, output: o, student: {path: s}, steps: 1, terms: [{name: cross_entropy, class_weights: {a: -1}}]}"
    )
    for value, message in (
        ("{a: -1}", "got the weight -1 of label a, expected a number of 0 or more"),
        ("{a: much}", "got the weight 'much' of label a"),
        ("balance", "got 'balance', expected a mapping of labels to weights, or balanced"),
    ):
        with pytest.raises(ConfigError, match=rf"terms.0.class_weights: {message}"):
            load_config(TrainConfig, tmp_path / "run.yaml", [f"terms.0.class_weights={value}"])
