"""What a teacher of classes scores on the labels: counts of (label, predicted class), and its accuracy in words.

P positions, C classes, R rows of text.
"""

import math
from collections.abc import Iterable, Sequence
from typing import Any

import numpy as np

from kdcache.targets.fields import NO_LABEL
from kdcache.tasks.score import MOST_NATS, Records, Score, Verdict, label_nats

__all__ = ["CONFUSABLE", "class_score", "class_verdict"]

CONFUSABLE = 20
"""Up to so many classes every wrong prediction is counted by its class; above, all as class −1."""
SURE = 2.0
"""Standard errors by which a teacher of classes has to be better than chance."""
FAR_BETTER, VERY_SURE = 0.1, 4.0
"""By how much of the accuracy, and how many standard errors, another order of the labels has to be better."""

Confusion = dict[int, dict[int, int]]


def class_score(parts: Iterable[Records], num_classes: int, *, whole_rows: bool) -> Score | None:
    """labelled, nano_nats (−log p of the label at T = 1) and confusion, {label: {predicted class: positions}}.

    whole_rows: whether the windows of a row of text count once, by the mean of their probabilities. None where the
    records do not hold every class.
    """
    labelled, loss = 0, 0.0
    confusion: Confusion = {}
    for part in parts:
        if not part.targets().knows_every_class:
            return None
        if whole_rows and part.continues.any():
            labels_P, loss_P, predicted_P = _of_texts(part)
        else:
            labels_P, loss_P = part.labels, label_nats(part)
            predicted_P = part.targets().top_P.numpy()
        known_P = labels_P != NO_LABEL
        labelled += int(known_P.sum())
        loss += float(loss_P[known_P].sum())
        _count(confusion, labels_P[known_P], predicted_P[known_P], num_classes)
    if not labelled:
        return None
    return Score({"labelled": labelled, "nano_nats": round(loss * 1e9), "confusion": _as_text(confusion)})


def _as_text(confusion: Confusion) -> dict[str, Any]:
    """With keys as JSON has them."""
    return {str(label): {str(c): count for c, count in row.items()} for label, row in confusion.items()}


def _of_texts(part: Records) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(label, −log p of it, likeliest class) of each text, by the mean of its windows' probabilities, [texts]."""
    starts = np.flatnonzero(~part.continues | (np.arange(len(part)) == 0))
    counts = np.diff(np.append(starts, len(part)))
    probs_PC = part.targets().relative_PE.double().softmax(-1).numpy()
    probs_RC = np.add.reduceat(probs_PC, starts) / counts[:, None]
    labels_R = part.labels[starts]
    own_R = probs_RC[np.arange(len(starts)), np.maximum(labels_R, 0)]
    loss_R = np.clip(-np.log(np.maximum(own_R, np.finfo(np.float64).tiny)), 0.0, MOST_NATS)
    return labels_R, loss_R, probs_RC.argmax(-1)


def _count(confusion: Confusion, labels_P: np.ndarray, predicted_P: np.ndarray, num_classes: int) -> None:
    if num_classes > CONFUSABLE:
        predicted_P = np.where(predicted_P == labels_P, predicted_P, -1)
    pairs, counts = np.unique(np.stack([labels_P, predicted_P], 1), axis=0, return_counts=True)
    for (label, predicted), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        row = confusion.setdefault(label, {})
        row[predicted] = row.get(predicted, 0) + count


def class_verdict(score: Score, names: Sequence[str]) -> Verdict:
    """The accuracy of a teacher beside that of the commonest class. names: of the classes, in order."""
    confusion = {int(label): {int(c): n for c, n in row.items()} for label, row in score["confusion"].items()}
    total = score["labelled"]
    accuracy = sum(row.get(label, 0) for label, row in confusion.items()) / total
    commonest, most = max(
        ((label, sum(row.values())) for label, row in sorted(confusion.items())), key=lambda pair: pair[1]
    )
    share = most / total
    figures: dict[str, Any] = {
        "positions": total,
        "accuracy": accuracy,
        "label_nll": score["nano_nats"] / 1e9 / total,
        "majority_share": share,
    }
    line = f"accuracy {accuracy:.1%} of {total:,} labelled ({names[commonest]} alone: {share:.1%})"
    chance = share if share < 1 else 1 / len(names)
    warnings = []
    if accuracy <= chance + SURE * math.sqrt(chance * (1 - chance) / total):
        warnings.append(
            f"the teacher's accuracy on {total:,} labels, {accuracy:.1%}, is no better than chance, {chance:.1%}: look "
            "at its tokenizer, at task.labels and their order, and at the labels of the corpus"
        )
    order, better = _best_order(confusion, total, len(names))
    gain = better - accuracy
    if gain >= max(FAR_BETTER, VERY_SURE * math.sqrt(0.25 / total)):
        figures["best_order"] = [names[label] for label in order]
        warnings.append(
            f"in another order the labels would fit the teacher far better, {better:.1%} in place of {accuracy:.1%}: "
            f"task.labels: [{', '.join(names[label] for label in order)}]"
        )
    return Verdict(figures, line, warnings)


def _best_order(confusion: Confusion, labelled: int, num_classes: int) -> tuple[list[int], float]:
    """(label of each class that the teacher predicts, accuracy) of the permutation with most right (Kuhn 1955)."""
    same = [*range(num_classes)]
    right = sum(row.get(label, 0) for label, row in confusion.items())
    most: dict[int, int] = {}
    for row in confusion.values():
        for predicted, count in row.items():
            most[predicted] = max(most.get(predicted, 0), count)
    if -1 in most or sum(most.values()) - right < FAR_BETTER * labelled:
        return same, right / labelled
    from scipy.optimize import linear_sum_assignment

    counts_CC = np.zeros((num_classes, num_classes), np.int64)
    for label, row in confusion.items():
        for predicted, count in row.items():
            counts_CC[predicted, label] = count
    predicted_C, label_C = linear_sum_assignment(counts_CC, maximize=True)
    return label_C.tolist(), float(counts_CC[predicted_C, label_C].sum()) / labelled
