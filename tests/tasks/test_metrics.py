import numpy as np
import pytest

from kdcache.targets.fields import NO_LABEL
from kdcache.tasks.metrics import Predictions, scores

NAMES = ["O", "B-X", "I-X"]


def certain(ids: list[int], labels: list[int], starts: list[int]) -> Predictions:
    log_probs_PC = np.full((len(ids), 3), np.log(0.1), np.float32)
    log_probs_PC[np.arange(len(ids)), ids] = np.log(0.8)
    starts_P = np.zeros(len(ids), bool)
    starts_P[starts] = True
    return Predictions(log_probs_PC, np.array(labels), starts_P)


def test_scores_by_hand() -> None:
    found = scores(certain([0, 1, 1, 0], [0, 1, 0, 0], [0, 1, 2, 3]), NAMES, "sequence_classification")
    assert found["accuracy"] == pytest.approx(3 / 4)
    assert found["macro_f1"] == pytest.approx((4 / 5 + 2 / 3) / 2)  # a class that nobody names is left out
    assert found["ece"] == pytest.approx(0.8 - 3 / 4)
    assert "entity_f1" not in found


def test_entities_are_whole_spans_of_one_row() -> None:
    true = [0, 1, 2, 2, 0, 1, 1, 2]
    guess = [0, 1, 2, 0, 0, 1, 1, 2]  # the first span is cut short
    found = scores(certain(guess, true, [0, 5]), NAMES, "token_classification")
    assert found["entity_f1"] == pytest.approx(2 / 3)
    split_span = scores(certain(true, true, [0, 2, 5]), NAMES, "token_classification")
    assert split_span["entity_f1"] == 1.0


def test_a_span_does_not_reach_into_the_next_row() -> None:
    """I-X at the start of a row is a span of its own to conlleval, not the end of the row before."""
    joined = scores(certain([1, 2], [1, 2], [0]), NAMES, "token_classification")
    apart = scores(certain([1, 0], [1, 2], [0, 1]), NAMES, "token_classification")
    assert joined["entity_f1"] == 1.0
    assert apart["entity_f1"] == pytest.approx(2 / 3)


def test_positions_without_a_label_are_left_out() -> None:
    half = scores(certain([1, 0, 0], [1, NO_LABEL, 0], [0, 1, 2]), NAMES, "token_classification")
    assert half["accuracy"] == half["entity_f1"] == 1.0
    assert scores(certain([1], [NO_LABEL], [0]), NAMES, "token_classification") == {}


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
    found = scores(Predictions(log_probs_PC, np.array(true), starts_P), names, "token_classification")
    assert found["entity_f1"] == pytest.approx(expected)


def test_tags_that_are_no_entities_have_no_entity_f1() -> None:
    found = scores(certain([0, 1], [0, 1], [0]), ["NOUN", "VERB", "DET"], "token_classification")
    assert "entity_f1" not in found
    assert found["macro_f1"] == 1.0
