"""What a capture says of a text, checked, -> the arrays of captured records.

P positions, E entries, flat.
"""

from dataclasses import dataclass

import numpy as np

from kdcache.errors import CorpusError
from kdcache.imports.capture import SENTINEL, Captured
from kdcache.targets.fields import class_dtype

__all__ = ["Rules", "record_arrays"]


@dataclass(frozen=True)
class Rules:
    """num_classes: V. k: the most entries that are kept. fewest: the least that a position must have.
    sum_tolerance: by how much probabilities may sum to more than 1."""

    num_classes: int
    k: int
    fewest: int
    sum_tolerance: float


def record_arrays(text: Captured, rules: Rules) -> tuple[dict[str, np.ndarray], int]:
    """The arrays of captured records, and how many positions summed to more than 1 within the tolerance.

    Raises CorpusError with the place of an entry or a position that cannot be.
    """
    P = len(text.positions)
    rows_E = np.repeat(np.arange(P), text.counts)
    ids_E, log_p_E = text.ids, text.log_probs
    _refuse(text, rows_E, np.isnan(log_p_E), "has a log-probability that is NaN, expected a number up to 0")
    kept_E = log_p_E > SENTINEL
    rows_E, ids_E, log_p_E = rows_E[kept_E], ids_E[kept_E], log_p_E[kept_E]
    wrong_E = (ids_E < 0) | (ids_E >= rules.num_classes)
    if wrong_E.any():
        what = f"has class {ids_E[wrong_E][0]}, expected 0 to {rules.num_classes - 1}"
        hint = "name the tokenizer that made the ids in --tokenizer, or give --num-classes where the teacher has more"
        _refuse(text, rows_E, wrong_E, f"{what}: {hint}")
    wrong_E = log_p_E > rules.sum_tolerance
    if wrong_E.any():
        _refuse(text, rows_E, wrong_E, f"has log-probability {log_p_E[wrong_E][0]:.6g}, expected a number up to 0")
    order_E = np.lexsort((ids_E, rows_E))
    twice_E = np.zeros(len(order_E), bool)
    twice_E[1:] = (np.diff(ids_E[order_E]) == 0) & (np.diff(rows_E[order_E]) == 0)
    if twice_E.any():
        _refuse(text, rows_E[order_E], twice_E, f"has class {ids_E[order_E][twice_E][0]} twice, expected it once")

    order_E = np.lexsort((ids_E, -log_p_E, rows_E))
    rows_E, ids_E, log_p_E = rows_E[order_E], ids_E[order_E], log_p_E[order_E]
    counts_P = np.bincount(rows_E, minlength=P)
    if P and counts_P.min() < max(1, rules.fewest):
        p = int((counts_P < max(1, rules.fewest)).argmax())
        hint = "" if counts_P[p] == 0 else "; --short-rows takes such positions"
        raise CorpusError(
            f"{text.where}, position {text.positions[p]}: it has {counts_P[p]} entries with a probability, expected "
            f"{max(1, rules.fewest)} as others have{hint}"
        )
    first_P = counts_P.cumsum() - counts_P
    sums_P = np.add.reduceat(np.exp(log_p_E), first_P) if P else np.zeros(0)
    if (wrong_P := sums_P > 1 + rules.sum_tolerance).any():
        p = int(wrong_P.argmax())
        raise CorpusError(
            f"{text.where}, position {text.positions[p]}: the probabilities of its entries sum to {sums_P[p]:.6g}, "
            "expected at most 1: log-probabilities are natural logarithms of a softmax, and no logits"
        )
    above_P = sums_P > 1
    log_p_E = log_p_E - np.repeat(np.where(above_P, np.log(np.maximum(sums_P, 1e-300)), 0.0), counts_P)
    rank_E = np.arange(len(rows_E)) - np.repeat(first_P, counts_P)
    kept_E = rank_E < rules.k
    rows_E, ids_E, log_p_E = rows_E[kept_E], ids_E[kept_E], np.minimum(log_p_E[kept_E], 0.0)
    counts_P = np.minimum(counts_P, rules.k)
    first_P = counts_P.cumsum() - counts_P
    kept_P = np.add.reduceat(np.exp(log_p_E), first_P) if P else np.zeros(0)
    arrays = {
        "tail_mass": np.clip(1.0 - kept_P, 0.0, 1.0).astype(np.float32),
        "entry_counts": counts_P.astype(np.uint32),
        "ids": ids_E.astype(class_dtype(rules.num_classes)),
        "log_probs": log_p_E.astype(np.float32),
    }
    return arrays, int((sums_P > 1 + 1e-6).sum())


def _refuse(text: Captured, rows_E: np.ndarray, wrong_E: np.ndarray, what: str) -> None:
    if wrong_E.any():
        raise CorpusError(f"{text.where}, position {text.positions[rows_E[wrong_E.argmax()]]}: it {what}")
