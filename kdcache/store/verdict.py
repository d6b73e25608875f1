"""A teacher's score in words, and a warning where it is near chance: from a manifest alone."""

import math
from collections.abc import Sequence
from typing import Any

from kdcache.store.manifest import Header, Manifest, Score

__all__ = ["Verdict", "teacher_verdict"]

SURE = 2.0
"""Standard errors by which a teacher of classes has to be better than chance."""
NEAR = 0.95
"""Share of chance's loss from which a language model's is near it."""
FAR_BETTER, VERY_SURE = 0.1, 4.0
"""By how much of the accuracy, and how many standard errors, another order of the labels has to be better."""


class Verdict:
    """figures: by name, for JSON. line: for a person. warnings: what is wrong with it, one line each."""

    def __init__(self, figures: dict[str, Any], line: str, warnings: Sequence[str]) -> None:
        self.figures, self.line, self.warnings = figures, line, [*warnings]


def teacher_verdict(manifest: Manifest) -> Verdict | None:
    """None where the cache has no labels, no teacher, or records that do not answer T = 1."""
    score, header = manifest.totals.score, manifest.header
    if score is None:
        return None
    return _of_classes(score, header) if score.confusion is not None else _of_language(score, header)


def _of_language(score: Score, header: Header) -> Verdict:
    loss = score.nano_nats / 1e9 / score.labelled
    figures = {"positions": score.labelled, "loss": loss, "perplexity": math.exp(loss)}
    line = f"perplexity {figures['perplexity']:,.1f}, {loss:.3f} nats a position"
    if score.chance_nano_nats is None:
        return Verdict(figures, line, [])
    chance = min(score.chance_nano_nats / 1e9 / score.labelled, math.log(header.num_classes))
    warnings = []
    if loss >= NEAR * chance:
        warnings.append(
            f"the teacher's loss, {loss:.2f} nats a position, is near or above {chance:.2f}, what the counts of the "
            "labels alone give: look at its tokenizer and at task.attention, or whether it knows this language"
        )
    return Verdict(
        figures | {"loss_of_counts": chance}, f"{line} (the counts of the labels alone: {chance:.3f})", warnings
    )


def _of_classes(score: Score, header: Header) -> Verdict:
    assert score.confusion is not None
    names = header.class_names or [*map(str, range(header.num_classes))]
    total = score.labelled
    accuracy = sum(row.get(label, 0) for label, row in score.confusion.items()) / total
    commonest, most = max(
        ((label, sum(row.values())) for label, row in sorted(score.confusion.items())), key=lambda pair: pair[1]
    )
    share = most / total
    figures: dict[str, Any] = {
        "positions": total,
        "accuracy": accuracy,
        "loss": score.nano_nats / 1e9 / total,
        "majority_share": share,
    }
    line = f"accuracy {accuracy:.1%} of {total:,} labelled ({names[commonest]} alone: {share:.1%})"
    chance = share if share < 1 else 1 / header.num_classes
    warnings = []
    if accuracy <= chance + SURE * math.sqrt(chance * (1 - chance) / total):
        warnings.append(
            f"the teacher's accuracy on {total:,} labels, {accuracy:.1%}, is no better than chance, {chance:.1%}: look "
            "at its tokenizer, at task.labels and their order, and at the labels of the corpus"
        )
    order, better = _best_order(score, header.num_classes)
    gain = better - accuracy
    if gain >= max(FAR_BETTER, VERY_SURE * math.sqrt(0.25 / total)):
        figures["best_order"] = [names[label] for label in order]
        warnings.append(
            f"in another order the labels would fit the teacher far better, {better:.1%} in place of {accuracy:.1%}: "
            f"task.labels: [{', '.join(names[label] for label in order)}]"
        )
    return Verdict(figures, line, warnings)


def _best_order(score: Score, num_classes: int) -> tuple[list[int], float]:
    """(label of each class that the teacher predicts, accuracy) of the permutation with most right (Kuhn 1955)."""
    assert score.confusion is not None
    same = [*range(num_classes)]
    right = sum(row.get(label, 0) for label, row in score.confusion.items())
    most: dict[int, int] = {}
    for row in score.confusion.values():
        for predicted, count in row.items():
            most[predicted] = max(most.get(predicted, 0), count)
    if -1 in most or sum(most.values()) - right < FAR_BETTER * score.labelled:
        return same, right / score.labelled
    import numpy as np
    from scipy.optimize import linear_sum_assignment

    counts_CC = np.zeros((num_classes, num_classes), np.int64)
    for label, row in score.confusion.items():
        for predicted, count in row.items():
            counts_CC[predicted, label] = count
    predicted_C, label_C = linear_sum_assignment(counts_CC, maximize=True)
    return label_C.tolist(), float(counts_CC[predicted_C, label_C].sum()) / score.labelled
