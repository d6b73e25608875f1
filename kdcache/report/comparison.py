"""What two runs of a teacher say of each other and of stored records, added up over positions.

P positions, V classes.
"""

from collections.abc import Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.dump.rerun import Block, Rerun
from kdcache.targets.coded import Coded
from kdcache.targets.fields import COUNTS, Field
from kdcache.targets.kind import RecordKind
from kdcache.targets.noise import worth_at
from kdcache.targets.record import TeacherTargets
from kdcache.targets.recorder import Recorder
from kdcache.targets.records import distribution_of, record_fields
from kdcache.tasks import Task

__all__ = ["Comparison"]

TEMPERATURES = (1.0, 2.0)
CHUNK = 64
"""Positions whose every class is in memory at a time."""


@dataclass
class Spread:
    """Mean and maximum of some numbers; None of none."""

    count: int = 0
    total: float = 0.0
    most: float = 0.0

    def add(self, values: Tensor) -> None:
        if values.numel():
            self.count += values.numel()
            self.total += values.double().sum().item()
            self.most = max(self.most, values.max().item())

    @property
    def figures(self) -> dict[str, float] | None:
        return {"mean": self.total / self.count, "max": self.most} if self.count else None


@dataclass
class Found:
    """What the runs say of each other and of the cache. kl: of the two runs. left_out, noise: by temperature."""

    positions: int = 0
    differing: int = 0
    kl: Spread = field(default_factory=Spread)
    runs: Spread = field(default_factory=Spread)
    entries: Spread = field(default_factory=Spread)
    partition: Spread = field(default_factory=Spread)
    rounding: Spread = field(default_factory=Spread)
    left_out: dict[float, Spread] = field(default_factory=dict)
    noise: dict[float, Spread] = field(default_factory=dict)


class Comparison:
    """Adds up blocks."""

    def __init__(self, rerun: Rerun) -> None:
        header, basis = rerun.header, rerun.cache.basis if rerun.header.basis else None
        self.task: Task = rerun.task
        self.num_classes, self.basis = header.num_classes, basis
        self.kind: RecordKind | None = distribution_of(header.records)
        width, rank = header.features_width, header.basis.rank if header.basis else None
        self.fields = record_fields(header.records, header.num_classes, width=width, rank=rank)
        self.recorder = Recorder(header.records, rerun.encoder)
        self.found = Found()

    @torch.inference_mode()
    def add(self, block: Block, stored: Mapping[str, np.ndarray]) -> None:
        """The chosen positions of a block, with the arrays of its shard."""
        wanted = np.flatnonzero(block.wanted_P)
        fresh = picked(self.fields, self.recorder.arrays(block.first), wanted)
        kept = picked(self.fields, stored, block.positions_P[wanted])
        for start in range(0, len(wanted), CHUNK):
            rows = np.arange(start, min(start + CHUNK, len(wanted)))
            first, second = (run.logits_PV[wanted[rows]].float().cpu() for run in (block.first, block.second))
            self._add(first, second, picked(self.fields, fresh, rows), picked(self.fields, kept, rows))

    def _add(
        self, first_PV: Tensor, second_PV: Tensor, fresh: dict[str, np.ndarray], kept: dict[str, np.ndarray]
    ) -> None:
        found = self.found
        found.positions += len(first_PV)
        found.differing += int(differing(self.fields, fresh, kept).sum())
        found.runs.add(_apart(first_PV, second_PV))
        log_p = self._log_probs(first_PV, 1.0)
        if log_p is not None:
            found.kl.add(_kl(log_p, self._log_probs(second_PV, 1.0)))
        if self.kind is None:
            return
        new, old = (Coded.of(self.kind, arrays, self.num_classes, self.basis).targets() for arrays in (fresh, kept))
        dense_new, dense_old = (_scattered(targets, self.num_classes) for targets in (new, old))
        found.entries.add(_apart(dense_new, dense_old))
        found.rounding.add(_apart(dense_new, new.as_kept(first_PV)))
        if self.kind.answers(1.0):
            found.partition.add((new.log_partition(1.0) - old.log_partition(1.0)).abs())
        for temperature in TEMPERATURES:
            log_p = self._log_probs(first_PV, temperature)
            if log_p is not None and self.kind.answers(temperature):
                self._add_left_out(old, log_p, temperature)

    def _add_left_out(self, stored: TeacherTargets, log_p: Tensor, temperature: float) -> None:
        """log_p: of the teacher now, [rows, classes]."""
        found, targets = self.found, self.task.row_targets(stored)
        if targets.knows_every_class:
            spread = found.left_out.setdefault(temperature, Spread())
            spread.add(_kl(log_p, targets.dense_log_probs(temperature).double()))
        elif targets.draws:
            noise = torch.tensor([worth_at(targets, temperature).gradient_noise])
            found.noise.setdefault(temperature, Spread()).add(noise)
        else:
            weights_PE = targets.weights(temperature).double() * (targets.inclusion_PE > 0)
            weights_PE = weights_PE / weights_PE.sum(-1, keepdim=True)
            log_ratio_PE = weights_PE.clamp(min=1e-300).log() - log_p.gather(1, targets.ids_PE)
            spread = found.left_out.setdefault(temperature, Spread())
            spread.add((weights_PE * log_ratio_PE).nan_to_num(0, 0, 0).sum(-1))

    def _log_probs(self, logits_PV: Tensor, temperature: float) -> Tensor | None:
        """float64; None where the outputs are no distribution."""
        if not self.task.distributions:
            return None
        return (self.task.rows(logits_PV).double() / temperature).log_softmax(-1)

    def facts(self) -> dict[str, Any]:
        found = self.found
        return {
            "positions": found.positions,
            "itself": {"kl": found.kl.figures, "logits": found.runs.figures},
            "stored": {
                "differing": found.differing,
                "logits": found.entries.figures,
                "log_partition": found.partition.figures,
                "rounding": found.rounding.figures,
            },
            "left_out": {f"{t:g}": spread.figures for t, spread in found.left_out.items()},
            "noise": {f"{t:g}": spread.total / spread.count for t, spread in found.noise.items()},
        }


def picked(fields: Sequence[Field], arrays: Mapping[str, np.ndarray], rows: np.ndarray) -> dict[str, np.ndarray]:
    """The record arrays of some positions."""
    counts = arrays.get(COUNTS["entry"])
    taken = {f.name: arrays[f.name][rows] for f in fields if f.level == "position"}
    if counts is not None and any(f.level == "entry" for f in fields):
        ends = np.cumsum(counts, dtype=np.int64)
        inside = [np.arange(ends[row] - counts[row], ends[row]) for row in rows]
        entries = np.concatenate(inside) if inside else np.zeros(0, np.int64)
        taken |= {f.name: arrays[f.name][entries] for f in fields if f.level == "entry"}
        taken[COUNTS["entry"]] = counts[rows]
    return taken


def differing(fields: Sequence[Field], fresh: Mapping[str, np.ndarray], kept: Mapping[str, np.ndarray]) -> np.ndarray:
    """At which positions not every byte of a record is the same, bool [P]."""
    records = [[*_records(fields, arrays)] for arrays in (fresh, kept)]
    return np.array([one != other for one, other in zip(*records, strict=True)], bool)


def _records(fields: Sequence[Field], arrays: Mapping[str, np.ndarray]) -> Iterator[bytes]:
    """The bytes of each position's record."""
    counts = arrays.get(COUNTS["entry"])
    of_positions = [(f, arrays[f.name].astype(f.dtype, copy=False)) for f in fields if f.level == "position"]
    of_entries = [(f, arrays[f.name].astype(f.dtype, copy=False)) for f in fields if f.level == "entry"]
    size = len(counts) if counts is not None else len(of_positions[0][1]) if of_positions else 0
    ends = np.zeros(size, np.int64) if counts is None else np.cumsum(counts, dtype=np.int64)
    for i in range(size):
        parts = [array[i].tobytes() for _, array in of_positions]
        if counts is not None:
            parts += [array[ends[i] - counts[i] : ends[i]].tobytes() for _, array in of_entries]
        yield b"|".join(parts)


def _scattered(targets: TeacherTargets, num_classes: int) -> Tensor:
    """The logits of the entries in their columns, [P, V]; NaN where a class is no entry."""
    kept_PE = targets.inclusion_PE != 0
    dense_PV = torch.full((len(targets.ids_PE), num_classes + 1), torch.nan)
    ids_PE = targets.ids_PE.masked_fill(~kept_PE, num_classes)
    return dense_PV.scatter_(1, ids_PE, targets.logits_PE)[:, :num_classes]


def _apart(first: Tensor, second: Tensor) -> Tensor:
    """The largest absolute difference of each row, over classes that both have."""
    apart = (first - second).abs().nan_to_num(0.0, posinf=torch.inf)
    return apart.masked_fill(first == second, 0.0).amax(-1)


def _kl(log_p: Tensor, log_q: Tensor | None) -> Tensor:
    assert log_q is not None
    return (log_p.exp() * (log_p - log_q)).nan_to_num(0.0).sum(-1).clamp(min=0)
