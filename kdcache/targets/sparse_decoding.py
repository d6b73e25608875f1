"""The arrays that stand for sparse records on disk -> SparseTargets, in torch on the device that they are on.

Entries stay flat, 14 of a position on average, until all that is computed of them is done; then they are put in rows
of the longest, 34 of them. Inclusion probabilities are not stored: they follow from the logits and the tail's moments
at the proposals. What decides a rounding (the forecasts of the curve) is computed in float64, as it was encoded.

0.5 to 1.2 µs per position on one core of a shared CPU, for 14 to 23 entries of a position.

P positions, E entries (flat, or padded to the longest row), K stored temperatures.
"""

import math
from collections.abc import Mapping
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.targets.curve import TailCurve
from kdcache.targets.curve_codec import decode_moments
from kdcache.targets.logit_codec import from_linear, from_octaves, octave_steps
from kdcache.targets.plan import Plan

__all__ = ["EMPTY_TAIL", "decode", "sparse_facts"]

EMPTY_TAIL = 65535
"""The first code of the curve's values where a row's classes outside its entries are all masked."""
_BELOW_ONE = 1.0 - 2.0**-24


def sparse_facts(arrays: Mapping[str, np.ndarray], num_classes: int) -> dict[str, int]:
    """The most entries of a position, whether some have no tail, and whether each has a certain entry."""
    num_certain_P = arrays["num_certain"]
    empty_P = (num_certain_P == num_classes) | (arrays["tail_value"][:, 0] == EMPTY_TAIL)
    return {
        "most_entries": int(arrays["entry_counts"].max(initial=1)),
        "some_without_tail": int(empty_P.any()),
        "each_has_certain": int(num_certain_P.all()),
    }


def decode(arrays: Mapping[str, Tensor], plan: Plan, num_classes: int, facts: Mapping[str, int]) -> dict[str, Any]:
    """The arguments of SparseTargets but its tail rule."""
    num_certain_P, counts_P = arrays["num_certain"].long(), arrays["entry_counts"].long()
    places = _Places(counts_P, num_certain_P, len(arrays["ids"]), facts["most_entries"])
    relative_E, lowest_P = _relative_logits(arrays, plan, places)
    moments = decode_moments(arrays, plan.curve, num_classes - num_certain_P)
    empty_P = (num_certain_P == num_classes) | (arrays["tail_value"][:, 0] == EMPTY_TAIL)
    value_PK = moments.value_PK.masked_fill(empty_P[:, None], -torch.inf)
    label_logits = arrays.get("label_logits")
    inclusion_E = _inclusion(relative_E.double(), value_PK, plan, places)
    return {
        "ids_PE": places.padded(arrays["ids"].long()),
        "relative_PE": places.padded(relative_E),
        "maximum_P": arrays["maximum"].float(),
        "inclusion_PE": places.padded(inclusion_E.float()),
        "num_certain_P": num_certain_P,
        "num_classes": num_classes,
        "curve": TailCurve(
            temperatures=plan.curve.at_temperatures,
            log_partition_PK=value_PK.float(),
            mean_PK=moments.mean_PK.float(),
            variance_PK=None if moments.deviation_PK is None else moments.deviation_PK.square().float(),
            ceiling_P=lowest_P,
        ),
        "relative_label_P": None if label_logits is None else label_logits.float(),
        "some_without_tail": bool(facts["some_without_tail"]),
        "each_has_certain": bool(facts["each_has_certain"]),
    }


class _Places:
    """Where flat entries belong: `rows_E` of them all, and their places in rows padded to the longest."""

    def __init__(self, counts_P: Tensor, num_certain_P: Tensor, entries: int, most: int) -> None:
        P, device = len(counts_P), counts_P.device
        self.entries, self.shape = entries, (P, most)
        self.rows_E = torch.repeat_interleave(torch.arange(P, device=device), counts_P, output_size=entries)
        self.starts_P = counts_P.cumsum(0) - counts_P
        self.num_certain_P = num_certain_P
        self._flat_E = torch.arange(entries, device=device)
        self.certain_E = self._flat_E < self.of_rows(self.starts_P + num_certain_P)
        self._flat_E += self.of_rows(torch.arange(P, device=device) * most - self.starts_P)

    def of_rows(self, numbers_P: Tensor) -> Tensor:
        """Each entry's row's."""
        return numbers_P.index_select(0, self.rows_E)

    def padded(self, numbers_E: Tensor) -> Tensor:
        """In rows of the longest, 0 behind them."""
        padded = numbers_E.new_zeros(self.shape[0] * self.shape[1])
        return padded.scatter_(0, self._flat_E, numbers_E).view(self.shape)


def _relative_logits(arrays: Mapping[str, Tensor], plan: Plan, places: _Places) -> tuple[Tensor, Tensor]:
    """(float32 [E], that of each row's last certain entry [P], 0 where it has none).

    Coarse steps could lift a drawn entry above it; entries are in order, so none may be.
    """
    codes_E = arrays["logits"]
    if plan.logit_dtype == "uint8":
        relative_E = from_linear(codes_E, places.of_rows(arrays["span"])).float()
    elif (steps := octave_steps(plan)) is not None:
        certain, drawn = steps
        relative_E = from_octaves(codes_E, places.certain_E.double().mul_(certain - drawn).add_(drawn)).float()
    else:
        relative_E = codes_E.float()
    if not places.entries:
        return relative_E, torch.zeros_like(arrays["maximum"])
    last_P = (places.starts_P + places.num_certain_P - 1).clamp_(0, places.entries - 1)
    lowest_P = relative_E[last_P].masked_fill(places.num_certain_P == 0, 0.0)
    if plan.logit_dtype in ("uint8", "uint16"):
        highest_E = places.of_rows(lowest_P).masked_fill_(places.certain_E, torch.inf)
        relative_E = torch.minimum(relative_E, highest_E, out=highest_E)
    return relative_E, lowest_P


def _inclusion(relative_E: Tensor, value_PK: Tensor, plan: Plan, places: _Places) -> Tensor:
    """π of each entry: 1 when certain, else samples × proposal, scaled up where the tail's sum is below 1."""
    if not plan.samples:
        return torch.ones_like(relative_E)
    weights, tails = [], []
    for temperature in plan.proposals:
        scaled_E = relative_E if temperature == 1 else relative_E / temperature
        value_P = value_PK[:, plan.curve.column(temperature)]
        # The largest certain entry is 0 relative to the maximum, so the sum is 1 or more where there is one.
        certain_P = places.padded(scaled_E.exp().mul_(places.certain_E)).sum(-1)
        log_partition_P = torch.logaddexp(certain_P.log(), value_P)
        weights.append(scaled_E - places.of_rows(log_partition_P))
        tails.append(value_P - log_partition_P)
    log_share = -math.log(len(weights))
    log_tail_P = _log_sum(tails) + log_share
    log_scale_P = (-log_tail_P).clamp(min=math.log(plan.samples)) + log_share
    inclusion_E = _log_sum(weights).add_(places.of_rows(log_scale_P)).exp_().clamp_(max=_BELOW_ONE)
    return inclusion_E.masked_fill_(places.certain_E, 1.0)


def _log_sum(logs: list[Tensor]) -> Tensor:
    """log Σ exp of several tensors."""
    return logs[0] if len(logs) == 1 else torch.stack(logs).logsumexp(0)
