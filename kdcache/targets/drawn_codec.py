"""Drawn records <-> the arrays that stand for them on disk.

Entries of a position: its certain classes, likeliest first, then its drawn ones by class.

shares   uint8. 0 of a drawn class. Of a certain one its share f of the probability that those before it leave, as
         log-odds: f = 1 / (1 + e^−x), x = (code − 1) / 16 − log samples; 255 stands for f = 1, all that is left. So
         probabilities and the mass of the tail, ∏ (1 − f), keep their digits however sure the teacher is: f is off by
         at most (1 − f) f / 32. On a 135M language model that costs 5e-5 nats of KL on the mean position.
ids      the class; of a drawn one after the first the difference from the one before.
entropy  uint8, steps of 1/16 nat; 255 for all beyond.

The zeros of drawn classes cost less than a number of certain ones for each position would: 3.5 bytes per position for
all shares at 20 samples, against 2.2 + .4 + .7 apart. Gaps take 13.7 bits, unsorted ids 14.3 (bitshuffle, zstd).

P positions, C certain and E all entries, padded; in arrays they are flat.
"""

import math
from collections.abc import Mapping, Sequence

import numpy as np
import torch
from torch import Tensor

from kdcache.targets.drawn_targets import DrawnTargets
from kdcache.targets.fields import class_dtype
from kdcache.targets.never import LOG_NEVER
from kdcache.targets.sparse_codec import Block, joined
from kdcache.targets.teacher_rows import TeacherRows

__all__ = ["decode", "encode", "label_losses"]

STEPS, ALL_LEFT = 16, 255
"""Of a unit of log-odds, and of a nat of entropy; the code of a share of 1."""
LABEL_STEPS = 64


def encode(
    blocks: Sequence[Block], samples: int, temperature: float, num_classes: int
) -> tuple[dict[str, np.ndarray], np.ndarray]:
    """The arrays, entropy among them, and log Z(T) of logits relative to their row's maximum, [P]."""
    block = joined(blocks)
    counts_P, num_certain_P = block.counts_R.astype(np.int64), block.num_certain_R.astype(np.int64)
    row_E = np.repeat(np.arange(len(counts_P)), counts_P)
    rank_E = np.arange(len(row_E)) - np.repeat(counts_P.cumsum() - counts_P, counts_P)
    certain_E = rank_E < num_certain_P[row_E]
    order_E = np.lexsort((np.where(certain_E, rank_E, block.ids_E), ~certain_E, row_E))
    ids_E = block.ids_E[order_E].astype(np.int64)
    after_drawn_E = ~certain_E & (rank_E > num_certain_P[row_E])
    gaps_E = np.where(after_drawn_E, np.diff(ids_E, prepend=0), ids_E)

    C = int(num_certain_P.max(initial=0))
    certain_PC = np.arange(C) < num_certain_P[:, None]
    scaled_PC = np.full(certain_PC.shape, -np.inf)
    scaled_PC[certain_PC] = block.relative_E[certain_E].astype(np.float64) / temperature
    some_P = block.tail_count_R > 0
    tail_top_P = block.tail_top_R.astype(np.float64)
    firsts_P, zeroths_P = (np.where(some_P, block.sums_RJ3[:, 0, i], 1.0) for i in (1, 2))
    tail_P = np.where(some_P, zeroths_P * np.exp(tail_top_P / temperature), 0.0)
    masses_PC = np.exp(scaled_PC)
    left_PC = tail_P[:, None] + masses_PC[:, ::-1].cumsum(1)[:, ::-1] - masses_PC
    with np.errstate(divide="ignore", invalid="ignore"):
        log_odds_PC = scaled_PC - np.log(np.maximum(left_PC, 0.0))
    steps_PC = 1 + np.rint(STEPS * (log_odds_PC[certain_PC] + math.log(samples)))
    shares_E = np.zeros(len(row_E), np.uint8)
    shares_E[certain_E] = np.clip(steps_PC, 1, ALL_LEFT)

    total_P = masses_PC.sum(1) + tail_P
    log_partition_P = np.log(total_P)
    scaled_tail_P = tail_P * (tail_top_P + firsts_P / zeroths_P) / temperature
    certain_sum_P = np.where(certain_PC, masses_PC * np.where(certain_PC, scaled_PC, 0.0), 0.0).sum(1)
    entropy_P = log_partition_P - (certain_sum_P + scaled_tail_P) / total_P
    arrays = {
        "entry_counts": counts_P.astype(np.uint32),
        "entropy": np.clip(np.rint(STEPS * entropy_P), 0, 255).astype(np.uint8),
        "ids": gaps_E.astype(class_dtype(num_classes)),
        "shares": shares_E,
    }
    return arrays, log_partition_P


def label_logits(rows: TeacherRows) -> torch.Tensor:
    """Relative to the row's maximum, float64 [P]; of a label that is not known that of class 0."""
    labels_P1 = rows.labels_on(rows.logits_PV.device)[:, None]
    logits_PV = rows.logits_PV
    return logits_PV.gather(1, labels_P1)[:, 0].double() - logits_PV.amax(-1).double()


def label_losses(relative_P: np.ndarray, log_partition_P: np.ndarray) -> np.ndarray:
    """−log p of each label at T = 1 in steps of 1/64 nat, uint16 [P]; 240 nats of a label that is never given.

    relative_P: as label_logits gives them. log_partition_P: at T = 1, relative to the maximum.
    """
    losses_P = np.clip(log_partition_P - relative_P, 0.0, -LOG_NEVER)
    return np.rint(LABEL_STEPS * losses_P).astype(np.uint16)


def decode(
    arrays: Mapping[str, Tensor], samples: int, temperature: float, num_classes: int, facts: Mapping[str, int]
) -> DrawnTargets:
    """What these arrays stand for, on the device that they are on. Flat entries are padded to the longest row."""
    counts_P, E = arrays["entry_counts"].long(), facts["most_entries"]
    starts_P = counts_P.cumsum(0) - counts_P
    place_E = torch.arange(E, device=counts_P.device)
    kept_PE = place_E < counts_P[:, None]
    flat_PE = (starts_P[:, None] + place_E).clamp(max=max(len(arrays["ids"]) - 1, 0))
    if len(arrays["ids"]):
        codes_PE = arrays["shares"][flat_PE].long().masked_fill(~kept_PE, 0)
        ids_PE = arrays["ids"][flat_PE].long().masked_fill(~kept_PE, 0)
    else:
        codes_PE, ids_PE = flat_PE * 0, flat_PE * 0
    certain_PE = codes_PE > 0
    drawn_PE = kept_PE & ~certain_PE
    ids_PE = torch.where(drawn_PE, ids_PE.masked_fill(certain_PE, 0).cumsum(1), ids_PE)

    log_odds_PE = (codes_PE.double() - 1) / STEPS - math.log(samples)
    log_odds_PE = log_odds_PE.masked_fill(codes_PE == ALL_LEFT, torch.inf)
    log_share_PE = torch.nn.functional.logsigmoid(log_odds_PE)
    log_left_PE = torch.nn.functional.logsigmoid(-log_odds_PE).masked_fill(~certain_PE, 0.0).cumsum(1)
    log_before_PE = torch.nn.functional.pad(log_left_PE[:, :-1], (1, 0))
    log_probs_PE = log_share_PE + log_before_PE
    unknown_PE = torch.full_like(log_probs_PE, torch.nan).masked_fill(~kept_PE, 0.0)
    entropy, label_loss = arrays.get("entropy"), arrays.get("label_loss")
    return DrawnTargets(
        ids_PE=ids_PE,
        relative_PE=torch.where(certain_PE, temperature * log_probs_PE, unknown_PE).float(),
        maximum_P=log_left_PE.new_zeros(len(counts_P), dtype=torch.float32),
        inclusion_PE=torch.where(certain_PE, 1.0, unknown_PE).float(),
        num_certain_P=certain_PE.sum(1),
        num_classes=num_classes,
        log_tail_P=log_left_PE[:, -1].float(),
        num_drawn_P=drawn_PE.sum(1),
        temperature=temperature,
        samples=samples,
        each_has_certain=bool(facts["each_has_certain"]),
        stored_entropy_P=None if entropy is None else entropy.float() / STEPS,
        label_loss_P=None if label_loss is None else label_loss.float() / LABEL_STEPS,
    )
