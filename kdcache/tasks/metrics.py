"""What predictions of classes are worth: accuracy, macro-F1, entity-level F1, expected calibration error.

Computed by torchmetrics, entities by seqeval (conlleval's rules). Positions without a label are left out.

P positions, C classes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Self

import numpy as np

from kdcache.targets.fields import NO_LABEL

__all__ = ["Predictions", "scores"]

CALIBRATION_BINS = 15
ENTITY_TAG = re.compile(r"[BIESLU]-")


@dataclass(frozen=True)
class Predictions:
    """log_probs_PC: float32. labels_P: NO_LABEL where there is none. starts_P: the first position of a row of text."""

    log_probs_PC: np.ndarray
    labels_P: np.ndarray
    starts_P: np.ndarray

    @classmethod
    def concat(cls, parts: Sequence["Predictions"]) -> Self:
        return cls(
            np.concatenate([part.log_probs_PC for part in parts]),
            np.concatenate([part.labels_P for part in parts]),
            np.concatenate([part.starts_P for part in parts]),
        )


def scores(predictions: Predictions, names: Sequence[str], task: str) -> dict[str, float]:
    """accuracy, macro_f1, ece, and of tags of entities entity_f1; nothing where no position has a label.

    names: of the classes. Entities are those of BIO tags, or of IOBES and BILOU ones; other tags, such as parts of
    speech, have no entity_f1. Rows are put together again from their windows.
    """
    import torch
    from torchmetrics.functional.classification import (
        multiclass_accuracy,
        multiclass_calibration_error,
        multiclass_f1_score,
    )

    known_P = predictions.labels_P != NO_LABEL
    if not known_P.any():
        return {}
    probs_PC = torch.from_numpy(predictions.log_probs_PC[known_P]).exp()
    labels_P = torch.from_numpy(predictions.labels_P[known_P])
    classes = len(names)
    found = {
        "accuracy": multiclass_accuracy(probs_PC, labels_P, classes, average="micro"),
        "macro_f1": multiclass_f1_score(probs_PC, labels_P, classes, average="macro"),
        "ece": multiclass_calibration_error(probs_PC, labels_P, classes, n_bins=CALIBRATION_BINS),
    }
    values = {name: float(value) for name, value in found.items()}
    if task == "token_classification" and any(ENTITY_TAG.match(name) for name in names):
        values["entity_f1"] = _entity_f1(predictions, names)
    return values


def _entity_f1(predictions: Predictions, names: Sequence[str]) -> float:
    from seqeval.metrics import f1_score

    known_P = predictions.labels_P != NO_LABEL
    rows_P = np.cumsum(predictions.starts_P)[known_P]
    borders = np.flatnonzero(np.diff(rows_P)) + 1
    tags = np.array([_as_iobes(name) for name in names], dtype=object)
    true, predicted = (
        [row.tolist() for row in np.split(tags[ids_P[known_P]], borders)]
        for ids_P in (predictions.labels_P, predictions.log_probs_PC.argmax(1))
    )
    if not any(ENTITY_TAG.match(tag) for row in (*true, *predicted) for tag in row):
        return 0.0
    return float(f1_score(true, predicted, zero_division=0))


def _as_iobes(tag: str) -> str:
    """BILOU calls the last word of an entity L and a single one U; seqeval knows them as E and S."""
    return {"L-": "E-", "U-": "S-"}.get(tag[:2], tag[:2]) + tag[2:]
