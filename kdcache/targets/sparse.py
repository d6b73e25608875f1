"""Sparse: what sampled, top-k and factored records have in common, some entries of each row and the tail's curve.

    position  label_logits (of the label, relative to the maximum)  maximum  num_certain
              tail_value, tail_mean, tail_deviation (the curve)     span (of uint8 logits)
    entry     ids, logits

Settings and names alone; the arithmetic is in sparse_rows.py and sparse_decoding.py, and imports torch.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, Literal

import numpy as np
from pydantic import Field as Setting

from kdcache.targets.curve_spec import CurveSpec
from kdcache.targets.fields import Field, class_dtype
from kdcache.targets.kind import RecordKind
from kdcache.targets.logit_codec import octave_steps
from kdcache.targets.plan import LogitDtype, Plan

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.targets.basis import Basis
    from kdcache.targets.calibration import Encoder
    from kdcache.targets.sparse_targets import SparseTargets
    from kdcache.targets.teacher_rows import TeacherRows

__all__ = ["Sparse", "check_proposals"]


class Sparse(RecordKind):
    """logit_dtype: how a kept logit is stored, relative to the row's maximum. "uint16", logarithmic steps, keeps log Z
        to 1e-3; "uint8" saves 3 bytes per position and keeps it to 1e-2.
    curve: where the partition curve of the tail is stored.
    """

    logit_dtype: LogitDtype = "uint16"
    curve: CurveSpec = Setting(default_factory=CurveSpec)

    @property
    def plan(self) -> Plan:
        """What is kept of a row."""
        raise NotImplementedError

    @property
    def tail_rule(self) -> Literal["sampled", "ghost", "renormalise"]:
        """What stands for the classes that are not certain entries (SparseTargets)."""
        return "sampled" if self.plan.samples else "ghost"

    def fields(self, num_classes: int, *, width: int | None = None, rank: int | None = None) -> list[Field]:
        plan, K = self.plan, len(self.curve.betas)
        return [
            Field("label_logits", "position", "float16"),
            Field("maximum", "position", "float32"),
            *([Field("span", "position", "float16")] if plan.logit_dtype == "uint8" else []),
            Field("num_certain", "position", "uint16"),
            Field("tail_value", "position", "uint16", (K,)),
            Field("tail_mean", "position", "uint16", (K,)),
            *([Field("tail_deviation", "position", "uint16", (K,))] if self.curve.interpolates else []),
            Field("ids", "entry", class_dtype(num_classes), shuffle="none"),
            Field("logits", "entry", plan.logit_dtype, steps_per_octave=octave_steps(plan)),
        ]

    def encode(self, rows: "TeacherRows", encoder: "Encoder | None" = None) -> dict[str, np.ndarray]:
        from kdcache.targets.sparse_rows import sparse_arrays

        return sparse_arrays(rows, self.plan)

    def facts(self, arrays: Mapping[str, np.ndarray], num_classes: int) -> Mapping[str, int]:
        from kdcache.targets.sparse_decoding import sparse_facts

        return sparse_facts(arrays, num_classes)

    def decode(
        self,
        arrays: "Mapping[str, Tensor]",
        num_classes: int,
        facts: Mapping[str, int],
        basis: "Basis | None" = None,
    ) -> "SparseTargets":
        from kdcache.targets.sparse_decoding import decode
        from kdcache.targets.sparse_targets import SparseTargets

        return SparseTargets(**decode(arrays, self.plan, num_classes, facts), tail=self.tail_rule)

    def faults(self, arrays: Mapping[str, np.ndarray], num_classes: int) -> Iterator[str]:
        ids_E, counts_P = arrays["ids"], arrays["entry_counts"]
        if len(ids_E) and ids_E.max() >= num_classes:
            yield f"ids go up to {ids_E.max()}, expected below {num_classes}"
        most = min(num_classes, self.plan.most_entries)
        if len(counts_P) and counts_P.max() > most:
            yield f"a position has {counts_P.max()} entries, expected at most {most}"
        if (arrays["num_certain"] > counts_P).any():
            yield "a position has more certain entries than entries"

    def answers(self, temperature: float) -> bool:
        return self.curve.interpolates or temperature in self.curve.at_temperatures

    def entries_per_position(self, num_classes: int) -> int:
        """Half of the draws fall on classes that are certain or drawn already, or on none."""
        return min(num_classes, self.plan.exact_top_k + self.plan.samples // 2)

    def misfit(self, *, few_classes: bool, whole_examples: bool) -> str | None:
        return f"got record.kind {self.kind}, expected dense, which holds every class" if few_classes else None


def check_proposals(proposals: Any, curve: CurveSpec) -> None:
    """Raises ValueError where nothing can be drawn at these temperatures."""
    if not proposals:
        raise ValueError("got no proposal_temperatures, expected at least one, e.g. [1.0]")
    for temperature in proposals:
        if not temperature > 0 or curve.column(temperature) is None:
            raise ValueError(
                f"got proposal temperature {temperature:g} without a point of the curve at it, expected one: "
                f"add {1 / temperature if temperature > 0 else 1:g} to curve.nodes or use a stored temperature"
            )
