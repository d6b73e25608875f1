"""CapturedTargets: the likeliest classes with their log-probabilities, and what they leave as one class.

P positions, E entries (padded), V classes.
"""

from collections.abc import Mapping
from dataclasses import dataclass
from typing import Literal

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import ConfigError
from kdcache.targets.fields import class_dtype
from kdcache.targets.never import refuse, usable_rows
from kdcache.targets.record import TeacherTargets
from kdcache.targets.teacher_rows import TeacherRows

__all__ = ["CapturedTargets", "captured_arrays", "decode"]


@dataclass(frozen=True)
class CapturedTargets(TeacherTargets):
    """Logits are known up to a constant of the row: they are T log p, so that the log-partition at T is 0.

    rest_P: the probability outside the entries at the temperature.
    temperature: that of the capture.
    tail: "ghost", the rest is one class and no other temperature is answered; "renormalise", there is no rest.
    """

    rest_P: Tensor
    temperature: float
    tail: Literal["ghost", "renormalise"] = "ghost"

    knows_entropy = False
    keeps_raw_logits = False

    @property
    def weights_are_whole(self) -> bool:  # type: ignore[override]
        return self.tail != "renormalise"

    def weighs(self, temperature: float) -> bool:
        return self.tail == "renormalise"

    def as_kept(self, logits_PV: Tensor) -> Tensor:
        return self.temperature * (logits_PV.double() / self.temperature).log_softmax(-1)

    def _relative_log_partition(self, temperature: float) -> Tensor:
        if self.tail == "renormalise":
            return super()._relative_log_partition(temperature)
        self._check(temperature)
        return torch.zeros_like(self.maximum_P)

    def _tail(self, temperature: float) -> None:
        """Of a renormalised record, whose entries are all there is."""
        return None

    def _check(self, temperature: float) -> None:
        if abs(temperature - self.temperature) > 1e-6 * self.temperature:
            raise ConfigError(
                f"temperature {temperature:g} is not in the cache: its records were captured elsewhere at "
                f"{self.temperature:g}, and do not say how the tail is spread; use {self.temperature:g}, import again "
                "with --tail renormalise, which drops the tail, or dump the teacher with kdcache"
            )

    def log_tail_mass(self, temperature: float) -> Tensor:
        if self.tail == "renormalise":
            return super().log_tail_mass(temperature)
        self._check(temperature)
        return self.rest_P.log()

    def entropy(self, temperature: float) -> Tensor:
        raise ConfigError(
            "got records that were captured elsewhere, which do not know the teacher's entropy, expected some that do: "
            "leave this term or weighting out, or dump the teacher with kdcache"
        )


def captured_arrays(rows: TeacherRows, k: int, temperature: float) -> dict[str, np.ndarray]:
    """The arrays of the k likeliest classes of each row. Raises TeacherError for NaN, +inf or nothing but −inf."""
    refuse(usable_rows(rows.logits_PV), 0, len(rows))
    log_p_PV = (rows.logits_PV.double() / temperature).log_softmax(-1)
    log_p_PE, ids_PE = log_p_PV.topk(min(k, rows.num_classes))
    rest_P = log_p_PV.scatter(1, ids_PE, -torch.inf).exp().sum(-1)
    kept_PE = (log_p_PE > -torch.inf).cpu().numpy()
    return {
        "tail_mass": rest_P.float().cpu().numpy(),
        "entry_counts": kept_PE.sum(1).astype(np.uint32),
        "ids": ids_PE.cpu().numpy()[kept_PE].astype(class_dtype(rows.num_classes)),
        "log_probs": log_p_PE.float().cpu().numpy()[kept_PE],
    }


def decode(
    arrays: Mapping[str, Tensor],
    temperature: float,
    tail: Literal["ghost", "renormalise"],
    num_classes: int,
    facts: Mapping[str, int],
) -> CapturedTargets:
    """What these arrays stand for, on the device that they are on. Flat entries are padded to the longest row."""
    counts_P, E = arrays["entry_counts"].long(), facts["most_entries"]
    place_E = torch.arange(E, device=counts_P.device)
    kept_PE = place_E < counts_P[:, None]
    flat_PE = ((counts_P.cumsum(0) - counts_P)[:, None] + place_E).clamp(max=max(len(arrays["ids"]) - 1, 0))
    if not len(arrays["ids"]):
        ids_PE, log_probs_PE = flat_PE * 0, flat_PE * 0.0
    else:
        ids_PE = arrays["ids"].long()[flat_PE].masked_fill(~kept_PE, 0)
        log_probs_PE = arrays["log_probs"].float()[flat_PE].masked_fill(~kept_PE, 0.0)
    return CapturedTargets(
        ids_PE=ids_PE,
        relative_PE=temperature * log_probs_PE,
        maximum_P=log_probs_PE.new_zeros(len(counts_P), dtype=torch.float32),
        inclusion_PE=kept_PE.float(),
        num_certain_P=counts_P,
        num_classes=num_classes,
        rest_P=arrays["tail_mass"].float(),
        temperature=temperature,
        tail=tail,
    )
