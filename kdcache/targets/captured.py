"""Captured: the likeliest classes and their log-probabilities, as other tools keep them, and nothing that they lack.

What an import makes of a capture that was taken elsewhere. It knows the normaliser at one
temperature, the probability outside the entries at that one, and nothing of how that is spread: no curve, no entropy
of the whole, no logit of a label outside the entries. What it does not know it refuses to answer.

    position  tail_mass
    entry     ids, log_probs

Biased at other temperatures, and for reference: a dump of one's own teacher is better kept as any other kind.

P positions, E entries, flat.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal

import numpy as np
from pydantic import Field as Setting

from kdcache.targets.curve_spec import MAX_BETA
from kdcache.targets.fields import Field, class_dtype
from kdcache.targets.kind import RecordKind

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.targets.basis import Basis
    from kdcache.targets.calibration import Encoder
    from kdcache.targets.captured_targets import CapturedTargets
    from kdcache.targets.teacher_rows import TeacherRows

__all__ = ["Captured"]

ROUNDING = 1e-5
"""By how much the probabilities of a position may sum to more than 1 in float32."""


class Captured(RecordKind):
    """The likeliest classes and their log-probabilities at one temperature, as another tool captured them.

    k: how many classes a position has at most.
    temperature: of the softmax that the log-probabilities are of.
    tail: what a loss makes of the other classes: "ghost", one extra class with the mass that the entries leave, at
        this temperature alone; "renormalise", nothing: the teacher's distribution on the entries alone, at any
        temperature, which is biased. A capture that was renormalised to its entries knows no other.
    """

    kind: Literal["captured"] = "captured"
    k: Annotated[int, Setting(ge=1, le=32768)]
    temperature: Annotated[float, Setting(ge=1 / MAX_BETA, allow_inf_nan=False)] = 1.0
    tail: Literal["ghost", "renormalise"] = "ghost"

    def fields(self, num_classes: int, *, width: int | None = None, rank: int | None = None) -> list[Field]:
        return [
            Field("tail_mass", "position", "float32"),
            Field("ids", "entry", class_dtype(num_classes), shuffle="none"),
            Field("log_probs", "entry", "float32"),
        ]

    def encode(self, rows: "TeacherRows", encoder: "Encoder | None" = None) -> dict[str, np.ndarray]:
        from kdcache.targets.captured_targets import captured_arrays

        return captured_arrays(rows, self.k, self.temperature)

    def decode(
        self,
        arrays: "Mapping[str, Tensor]",
        num_classes: int,
        facts: Mapping[str, int],
        basis: "Basis | None" = None,
    ) -> "CapturedTargets":
        from kdcache.targets.captured_targets import decode

        return decode(arrays, self.temperature, self.tail, num_classes, facts)

    def facts(self, arrays: Mapping[str, np.ndarray], num_classes: int) -> Mapping[str, int]:
        return {"most_entries": int(arrays["entry_counts"].max(initial=1))}

    def faults(self, arrays: Mapping[str, np.ndarray], num_classes: int) -> Iterator[str]:
        ids_E, counts_P, log_probs_E = arrays["ids"], arrays["entry_counts"].astype(np.int64), arrays["log_probs"]
        if len(ids_E) and ids_E.max() >= num_classes:
            yield f"ids go up to {ids_E.max()}, expected below {num_classes}"
        if not len(counts_P):
            return
        if counts_P.min() == 0 or counts_P.max() > self.k:
            yield f"positions have {counts_P.min()} to {counts_P.max()} entries, expected 1 to {self.k}"
        if len(log_probs_E) and not log_probs_E.max() <= ROUNDING:
            yield f"log_probs go up to {log_probs_E.max()}, expected at most 0"
        first_E = np.zeros(len(log_probs_E) + 1, bool)
        first_E[counts_P.cumsum() - counts_P] = True
        if (~first_E[1:-1] & (log_probs_E[1:] > log_probs_E[:-1])).any():
            yield "log_probs of a position ascend, expected the likeliest class first"
        tail_P = arrays["tail_mass"]
        if not (tail_P.min() >= 0 and tail_P.max() <= 1):
            yield f"tail_mass is {tail_P.min()} to {tail_P.max()}, expected 0 to 1"

    def answers(self, temperature: float) -> bool:
        return self.tail == "renormalise" or abs(temperature - self.temperature) <= 1e-6 * self.temperature

    def entries_per_position(self, num_classes: int) -> int:
        return min(num_classes, self.k)

    def misfit(self, *, few_classes: bool, whole_examples: bool) -> str | None:
        return f"got record.kind {self.kind}, expected dense, which holds every class" if few_classes else None
