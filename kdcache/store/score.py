"""What the teacher's own records score on the labels: sums over the positions of a shard.

Computed of what is stored, in float64 and whole numbers, so that they are the same at every world size, whoever writes.
Of a language model the loss, −log p of the label at T = 1, and beside it what knows nothing but how often each label
came before pays: the Dirichlet-multinomial code of the labels' counts in the shard, at the best of four strengths. In
long shards that is the entropy of the labels' own distribution, in short ones nearer to log V. Of a classification the
counts of (label, predicted class).

P positions, C classes.
"""

import math
from collections.abc import Iterator, Mapping

import numpy as np

from kdcache.store.batch import Batch
from kdcache.store.manifest import Header, Score
from kdcache.targets.fields import NO_LABEL
from kdcache.targets.spec import RecordSpec

__all__ = ["CONFUSABLE", "counts_code", "unit_score"]

CONFUSABLE = 20
"""Up to so many classes every wrong prediction is counted by its class; above, all as class −1."""
MOST_NATS = 240.0
"""The loss of a label to which the teacher gives no probability: what a record can tell from none."""
_STRENGTHS = (1.0, 0.1, 0.01, 0.001)
_VALUES = 1 << 24


def unit_score(header: Header, arrays: Mapping[str, np.ndarray]) -> Score | None:
    """None of a shard without labels or records, or whose records do not answer T = 1."""
    spec = header.record
    if spec is None or not (spec.dense or spec.curve.interpolates or 1.0 in spec.curve.at_temperatures):
        return None
    try:
        return _score(header, spec, arrays)
    except (IndexError, ValueError):  # arrays made elsewhere that do not fit together: `verify` says how
        return None


def _score(header: Header, spec: RecordSpec, arrays: Mapping[str, np.ndarray]) -> Score | None:
    labelled, loss = 0, 0.0
    causal = header.task.get("name") == "causal_lm"
    confusion: dict[int, dict[int, int]] | None = None if causal else {}
    batch = Batch(header.fields, dict(arrays), spec, header.num_classes)
    for part in _parts(batch):
        of_part, (loss_P, predicted_P) = part.labels, _of_positions(part)
        if header.task.get("name") == "sequence_classification" and part.continues.any():
            of_part, loss_P, predicted_P = _of_texts(part)
        known_P = of_part != NO_LABEL
        labels_P = of_part[known_P]
        labelled += len(labels_P)
        loss += float(loss_P[known_P].sum())
        if confusion is not None and predicted_P is not None:
            _count(confusion, labels_P, predicted_P[known_P], header.num_classes)
    if not labelled:
        return None
    return Score(
        labelled=labelled,
        nano_nats=round(loss * 1e9),
        chance_nano_nats=round(counts_code(batch.labels, header.num_classes) * 1e9) if causal else None,
        confusion=confusion,
    )


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


def _parts(batch: Batch) -> Iterator[Batch]:
    """Some examples at a time, so that their records in memory take some 100 MB."""
    width = batch.num_classes if batch.record is not None and batch.record.dense else 64
    ends = batch.arrays["position_counts"].cumsum(dtype=np.int64)
    start = 0
    while start < len(batch):
        before = int(ends[start - 1]) if start else 0
        stop = max(start + 1, int(np.searchsorted(ends, before + _VALUES // width, side="right")))
        yield batch.slice(start, stop)
        start = stop


def _of_positions(part: Batch) -> tuple[np.ndarray, np.ndarray | None]:
    """(−log p of each label, the class with the largest logit of a dense record), [P]; nonsense where none is known."""
    targets = part.targets()
    if not targets.dense:
        assert part.label_logits is not None
        log_partition_P = targets.log_partition(1.0).double().numpy()
        return np.clip(log_partition_P - part.label_logits.astype(np.float64), 0.0, MOST_NATS), None
    relative_PC = targets.relative_PE.double()
    log_partition_P = relative_PC.logsumexp(-1).numpy()
    own_P = relative_PC.numpy()[np.arange(len(part.labels)), np.maximum(part.labels, 0)]
    return np.clip(log_partition_P - own_P, 0.0, MOST_NATS), relative_PC.argmax(-1).numpy()


def _of_texts(part: Batch) -> tuple[np.ndarray, np.ndarray, np.ndarray]:
    """(label, −log p of it, likeliest class) of each text, by the mean of its windows' probabilities, [texts]."""
    starts = np.flatnonzero(~part.continues | (np.arange(len(part)) == 0))
    counts = np.diff(np.append(starts, len(part)))
    probs_PC = part.targets().relative_PE.double().softmax(-1).numpy()
    probs_RC = np.add.reduceat(probs_PC, starts) / counts[:, None]
    labels_R = part.labels[starts]
    own_R = probs_RC[np.arange(len(starts)), np.maximum(labels_R, 0)]
    loss_R = np.clip(-np.log(np.maximum(own_R, np.finfo(np.float64).tiny)), 0.0, MOST_NATS)
    return labels_R, loss_R, probs_RC.argmax(-1)


def _count(
    confusion: dict[int, dict[int, int]], labels_P: np.ndarray, predicted_P: np.ndarray, num_classes: int
) -> None:
    if num_classes > CONFUSABLE:
        predicted_P = np.where(predicted_P == labels_P, predicted_P, -1)
    pairs, counts = np.unique(np.stack([labels_P, predicted_P], 1), axis=0, return_counts=True)
    for (label, predicted), count in zip(pairs.tolist(), counts.tolist(), strict=True):
        row = confusion.setdefault(label, {})
        row[predicted] = row.get(predicted, 0) + count
