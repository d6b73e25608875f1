"""What predictions of classes are worth: accuracy, macro-F1, entity-level F1, expected calibration error.

Computed by torchmetrics, entities by seqeval (conlleval's rules). Positions without a label are left out. A text that
became several windows counts once, with the mean of its windows' probabilities.

P positions, C classes.
"""

import re
from collections.abc import Sequence
from dataclasses import dataclass
from typing import Any, Self

import numpy as np

from kdcache.targets.fields import NO_LABEL

__all__ = ["CALIBRATION_BINS", "Predictions", "class_row", "class_scores", "scores"]

CALIBRATION_BINS = 15
ENTITY_TAG = re.compile(r"[BIESLU]-")


@dataclass(frozen=True)
class Predictions:
    """outputs_PC: what `Task.outputs` makes of logits, of classes their log-probabilities, float32. labels_P: NO_LABEL
    where there is none. starts_P: the first position of a row of text."""

    outputs_PC: np.ndarray
    labels_P: np.ndarray
    starts_P: np.ndarray

    def of_rows(self) -> "Predictions":
        """One position for each row of text, with the mean of the probabilities of its positions."""
        starts = np.flatnonzero(self.starts_P)
        if len(starts) == len(self.starts_P) or not len(starts):
            return self
        counts_R = np.diff(np.append(starts, len(self.starts_P)))
        probs_RC = np.add.reduceat(np.exp(self.outputs_PC.astype(np.float64)), starts) / counts_R[:, None]
        with np.errstate(divide="ignore"):
            log_probs_RC = np.log(probs_RC).astype(self.outputs_PC.dtype)
        return Predictions(log_probs_RC, self.labels_P[starts], np.ones(len(starts), bool))

    def known(self, whole_rows: bool) -> "Predictions":
        """Those that have a label. whole_rows: one for each row of text."""
        chosen = self.of_rows() if whole_rows else self
        known_P = chosen.labels_P != NO_LABEL
        rows_P = np.cumsum(chosen.starts_P)[known_P]
        return Predictions(chosen.outputs_PC[known_P], chosen.labels_P[known_P], np.diff(rows_P, prepend=-1) != 0)

    def take(self, positions: np.ndarray) -> "Predictions":
        """Those of some positions, in this order."""
        return Predictions(self.outputs_PC[positions], self.labels_P[positions], self.starts_P[positions])

    @classmethod
    def concat(cls, parts: Sequence["Predictions"]) -> Self:
        return cls(
            np.concatenate([part.outputs_PC for part in parts]),
            np.concatenate([part.labels_P for part in parts]),
            np.concatenate([part.starts_P for part in parts]),
        )


def scores(predictions: Predictions, names: Sequence[str], *, whole_rows: bool, entities: bool) -> dict[str, float]:
    """accuracy, macro_f1, ece, and of tags of entities entity_f1; nothing where no position has a label.

    names: of the classes. Entities are those of BIO tags, or of IOBES and BILOU ones; other tags, such as parts of
    speech, have no entity_f1. Rows are put together again from their windows. whole_rows: a row of text counts once.
    entities: whether tags may be of entities.
    """
    import torch
    from torchmetrics.functional.classification import (
        multiclass_accuracy,
        multiclass_calibration_error,
        multiclass_f1_score,
    )

    known = predictions.known(whole_rows)
    if not len(known.labels_P):
        return {}
    probs_PC, labels_P = torch.from_numpy(known.outputs_PC).exp(), torch.from_numpy(known.labels_P)
    classes = len(names)
    found = {
        "accuracy": multiclass_accuracy(probs_PC, labels_P, classes, average="micro"),
        "macro_f1": multiclass_f1_score(probs_PC, labels_P, classes, average="macro"),
        "ece": multiclass_calibration_error(probs_PC, labels_P, classes, n_bins=CALIBRATION_BINS),
    }
    values = {name: float(value) for name, value in found.items()}
    if entities and _are_entities(names):
        values["entity_f1"] = _entity_f1(known, names)
    return values


def class_scores(
    predictions: Predictions, names: Sequence[str], *, whole_rows: bool, entities: bool
) -> list[dict[str, Any]]:
    """name, precision, recall, f1 and support of each class, or of tags of entities of each type of entity.

    support: how many there are. A score without anything to divide by is 0. Nothing where no position has a label.
    """
    import torch
    from torchmetrics.functional.classification import multiclass_stat_scores

    known = predictions.known(whole_rows)
    if not len(known.labels_P):
        return []
    if entities and _are_entities(names):
        return _entity_scores(known, names)
    predicted_P, labels_P = torch.from_numpy(known.outputs_PC.argmax(1)), torch.from_numpy(known.labels_P)
    counts = multiclass_stat_scores(predicted_P, labels_P, len(names), average=None).tolist()
    return [
        class_row(name, hits, wrong, missed) for name, (hits, wrong, _, missed, _) in zip(names, counts, strict=True)
    ]


def class_row(name: str, hits: int, wrong: int, missed: int) -> dict[str, Any]:
    """A row of a table of classes. hits, wrong, missed: how often it was rightly told, wrongly told, and not told."""
    return {
        "name": name,
        "precision": hits / max(hits + wrong, 1),
        "recall": hits / max(hits + missed, 1),
        "f1": 2 * hits / max(2 * hits + wrong + missed, 1),
        "support": hits + missed,
    }


def _are_entities(names: Sequence[str]) -> bool:
    return any(ENTITY_TAG.match(name) for name in names)


def _entity_f1(known: Predictions, names: Sequence[str]) -> float:
    from seqeval.metrics import f1_score

    true, predicted = _tags(known, names)
    if not any(ENTITY_TAG.match(tag) for row in (*true, *predicted) for tag in row):
        return 0.0
    return float(f1_score(true, predicted, zero_division=0))


def _entity_scores(known: Predictions, names: Sequence[str]) -> list[dict[str, Any]]:
    from seqeval.metrics.sequence_labeling import precision_recall_fscore_support

    true, predicted = _tags(known, names)
    types = sorted({tag[2:] for row in (*true, *predicted) for tag in row if ENTITY_TAG.match(tag)})
    if not types:
        return []
    found = precision_recall_fscore_support(true, predicted, average=None, zero_division=0)
    return [
        {"name": name, "precision": float(p), "recall": float(r), "f1": float(f1), "support": int(support)}
        for name, p, r, f1, support in zip(types, *found, strict=True)
    ]


def _tags(known: Predictions, names: Sequence[str]) -> tuple[list[list[str]], list[list[str]]]:
    """(true, predicted) tags of each row, put together again from its windows."""
    borders = np.flatnonzero(known.starts_P)[1:]
    tags = np.array([_as_iobes(name) for name in names], dtype=object)
    of_rows = [
        [row.tolist() for row in np.split(tags[ids_P], borders)]
        for ids_P in (known.labels_P, known.outputs_PC.argmax(1))
    ]
    return of_rows[0], of_rows[1]


def _as_iobes(tag: str) -> str:
    """BILOU calls the last word of an entity L and a single one U; seqeval knows them as E and S."""
    return {"L-": "E-", "U-": "S-"}.get(tag[:2], tag[:2]) + tag[2:]
