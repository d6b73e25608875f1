import numpy as np
import pytest

from kdcache.targets.fields import NO_LABEL
from kdcache.tasks.metrics import Predictions, class_scores, scores

NAMES = ["O", "B-X", "I-X"]
TEXTS = {"whole_rows": True, "entities": False}
TAGS = {"whole_rows": False, "entities": True}


def certain(ids: list[int], labels: list[int], starts: list[int]) -> Predictions:
    log_probs_PC = np.full((len(ids), 3), np.log(0.1), np.float32)
    log_probs_PC[np.arange(len(ids)), ids] = np.log(0.8)
    starts_P = np.zeros(len(ids), bool)
    starts_P[starts] = True
    return Predictions(log_probs_PC, np.array(labels), starts_P)


def test_scores_by_hand() -> None:
    found = scores(certain([0, 1, 1, 0], [0, 1, 0, 0], [0, 1, 2, 3]), NAMES, **TEXTS)
    assert found["accuracy"] == pytest.approx(3 / 4)
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)  # a class that nobody names is left out
    assert found["ece"] == pytest.approx(0.8 - 3 / 4)
    assert "entity_f1" not in found


def test_entities_are_whole_spans_of_one_row() -> None:
    true = [0, 1, 2, 2, 0, 1, 1, 2]
    guess = [0, 1, 2, 0, 0, 1, 1, 2]  # the first span is cut short
    found = scores(certain(guess, true, [0, 5]), NAMES, **TAGS)
    assert found["entity_f1"] == pytest.approx(2 / 3)
    split_span = scores(certain(true, true, [0, 2, 5]), NAMES, **TAGS)
    assert split_span["entity_f1"] == 1.0


def test_a_span_does_not_reach_into_the_next_row() -> None:
    """I-X at the start of a row is a span of its own to conlleval, not the end of the row before."""
    joined = scores(certain([1, 2], [1, 2], [0]), NAMES, **TAGS)
    apart = scores(certain([1, 0], [1, 2], [0, 1]), NAMES, **TAGS)
    assert joined["entity_f1"] == 1.0
    assert apart["entity_f1"] == pytest.approx(2 / 3)


def test_positions_without_a_label_are_left_out() -> None:
    half = scores(certain([1, 0, 0], [1, NO_LABEL, 0], [0, 1, 2]), NAMES, **TAGS)
    assert half["accuracy"] == half["entity_f1"] == 1.0
    assert scores(certain([1], [NO_LABEL], [0]), NAMES, **TAGS) == {}


@pytest.mark.parametrize(
    ("names", "guess", "expected"),
    [
        (["O", "B-X", "I-X", "E-X", "S-X"], [4, 4, 0, 1, 2, 3, 1, 3], 1.0),
        (["O", "B-X", "I-X", "L-X", "U-X"], [4, 4, 0, 1, 2, 3, 1, 3], 1.0),
        (["O", "B-X", "I-X", "L-X", "U-X"], [4, 0, 0, 1, 2, 3, 1, 3], 6 / 7),
    ],
)
def test_other_schemes_of_entities(names: list[str], guess: list[int], expected: float) -> None:
    true = [4, 4, 0, 1, 2, 3, 1, 3]
    log_probs_PC = np.log(np.full((8, 5), 0.01, np.float32))
    log_probs_PC[np.arange(8), guess] = np.log(0.96)
    starts_P = np.arange(8) == 0
    found = scores(Predictions(log_probs_PC, np.array(true), starts_P), names, **TAGS)
    assert found["entity_f1"] == pytest.approx(expected)


def test_tags_that_are_no_entities_have_no_entity_f1() -> None:
    found = scores(certain([0, 1], [0, 1], [0]), ["NOUN", "VERB", "DET"], **TAGS)
    assert "entity_f1" not in found
    assert found["macro_f1"] == 1.0


def test_scores_of_classes_are_scikit_learns() -> None:
    from sklearn.metrics import precision_recall_fscore_support

    rng = np.random.default_rng(0)
    true, guess = rng.integers(0, 2, 50), rng.integers(0, 2, 50)
    found = class_scores(certain(guess.tolist(), true.tolist(), [*range(50)]), ["a", "b", "c"], **TAGS)
    expected = precision_recall_fscore_support(true, guess, labels=[0, 1, 2], zero_division=0)
    assert [one["name"] for one in found] == ["a", "b", "c"]
    for key, values in zip(("precision", "recall", "f1", "support"), expected, strict=True):
        assert [one[key] for one in found] == pytest.approx(values.tolist())


def test_scores_of_tags_are_by_type_of_entity() -> None:
    names = ["O", "B-Y", "B-X", "I-X"]
    log_probs_PC = np.log(np.full((6, 4), 0.1, np.float32))
    log_probs_PC[np.arange(6), [2, 0, 1, 0, 2, 1]] = np.log(0.7)
    predictions = Predictions(log_probs_PC, np.array([2, 3, 1, 0, 2, NO_LABEL]), np.arange(6) == 0)
    assert class_scores(predictions, names, **TAGS) == [
        {"name": "X", "precision": 0.5, "recall": 0.5, "f1": 0.5, "support": 2},
        {"name": "Y", "precision": 1.0, "recall": 1.0, "f1": 1.0, "support": 1},
    ]
    unlabelled = Predictions(log_probs_PC, np.full(6, NO_LABEL), np.arange(6) == 0)
    assert class_scores(unlabelled, names, **TAGS) == []


def test_windows_of_a_text_are_one_row_of_their_mean_probability() -> None:
    """By votes the first text would be of class 1; its one sure window outweighs two that are not."""
    probs_PC = np.array([[0.9, 0.1], [0.4, 0.6], [0.4, 0.6], [0.2, 0.8], [0.3, 0.7]])
    starts_P = np.array([True, False, False, True, True])
    predictions = Predictions(np.log(probs_PC), np.array([0, 0, 0, 1, 0]), starts_P)
    pooled = predictions.of_rows()
    np.testing.assert_allclose(np.exp(pooled.outputs_PC), [[1.7 / 3, 1.3 / 3], [0.2, 0.8], [0.3, 0.7]])
    assert scores(predictions, ["a", "b"], **TEXTS)["accuracy"] == pytest.approx(2 / 3)
    assert scores(predictions, ["a", "b"], **TAGS)["accuracy"] == pytest.approx(2 / 5)
