"""What a language model scores on the tokens: its loss, beside what the counts of the tokens alone give.

What knows nothing but how often each token came before pays the Dirichlet-multinomial code of the tokens' counts in
the shard, at the best of four strengths. In long shards that is the entropy of the tokens' own distribution, in short
ones nearer to log V.

P positions.
"""

import math
from collections.abc import Iterable

import numpy as np

from kdcache.targets.fields import NO_LABEL
from kdcache.tasks.score import Records, Score, Verdict, label_nats

__all__ = ["counts_code", "language_score", "language_verdict"]

NEAR = 0.95
"""Share of chance's loss from which a language model's is near it."""
_STRENGTHS = (1.0, 0.1, 0.01, 0.001)


def language_score(parts: Iterable[Records], num_classes: int) -> Score | None:
    """labelled, nano_nats (−log p of the next token at T = 1) and chance_nano_nats, what the counts alone give."""
    labelled, loss = 0, 0.0
    labels = []
    for part in parts:
        known_P = part.labels != NO_LABEL
        labels.append(part.labels)
        labelled += int(known_P.sum())
        loss += float(label_nats(part)[known_P].sum())
    if not labelled:
        return None
    chance = counts_code(np.concatenate(labels), num_classes)
    return Score({"labelled": labelled, "nano_nats": round(loss * 1e9), "chance_nano_nats": round(chance * 1e9)})


def counts_code(labels_P: np.ndarray, num_classes: int) -> float:
    """Nats for these labels one after the other, each by (its count so far + α) / (their number + α C)."""
    sizes, repeats = np.unique(np.unique(labels_P, return_counts=True)[1], return_counts=True)
    codes = []
    for alpha in _STRENGTHS:
        whole = math.lgamma(len(labels_P) + alpha * num_classes) - math.lgamma(alpha * num_classes)
        codes.append(
            whole
            - sum(
                int(times) * (math.lgamma(size + alpha) - math.lgamma(alpha))
                for size, times in zip(sizes.tolist(), repeats.tolist(), strict=True)
            )
        )
    return min(codes)


def language_verdict(score: Score, num_classes: int) -> Verdict:
    """The perplexity of a teacher, with a warning where counts of tokens are nearly as good."""
    labelled = score["labelled"]
    loss = score["nano_nats"] / 1e9 / labelled
    figures = {"positions": labelled, "label_nll": loss, "perplexity": math.exp(loss)}
    line = f"perplexity {figures['perplexity']:,.1f}, {loss:.3f} nats per position"
    if score.get("chance_nano_nats") is None:
        return Verdict(figures, line, [])
    chance = min(score["chance_nano_nats"] / 1e9 / labelled, math.log(num_classes))
    warnings = []
    if loss >= NEAR * chance:
        warnings.append(
            f"the teacher's loss, {loss:.2f} nats per position, is near or above {chance:.2f}, what the counts of the "
            "labels alone give: look at its tokenizer and at task.attention, or whether it knows this language"
        )
    return Verdict(
        figures | {"loss_of_counts": chance}, f"{line} (the counts of the labels alone: {chance:.3f})", warnings
    )
