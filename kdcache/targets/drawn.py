"""Drawn: a sample at one temperature, in as few bytes as it takes. What a language model needs that trains at T = 1.

An unbiased record: classes with a probability of 1 / `samples` or more for certain, a sample of the others. A drawn
class weighs tail mass / number drawn whatever its logit (its probability over that of being drawn is a constant of the
row), so that its id alone is kept, and ids that are a set can be stored in ascending order, as gaps. Of a certain
class a byte says its share.

    position  entropy, label_loss: as `keep` says
    entry     ids, shares

Settings and names alone; the arithmetic is in drawn_codec.py, and imports torch. Not for other temperatures, nor for
divergences that compare the classes of the tail one by one: `sampled` and `factored` are.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Annotated, Literal, Self

import numpy as np
from pydantic import Field as Setting
from pydantic import model_validator

from kdcache.targets.curve_spec import MAX_BETA, CurveSpec
from kdcache.targets.fields import Field, class_dtype
from kdcache.targets.kind import RecordKind
from kdcache.targets.plan import Plan

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.targets.basis import Basis
    from kdcache.targets.calibration import Encoder
    from kdcache.targets.drawn_targets import DrawnTargets
    from kdcache.targets.teacher_rows import TeacherRows

__all__ = ["Drawn"]

MOST_SAMPLES = 512
"""With more a byte would not hold the share of a likely class well enough."""


class Drawn(RecordKind):
    """A sample at one temperature, ids alone: the smallest unbiased record for T = 1.

    samples: a class is kept for certain if its probability is at least 1 / samples, and of the other classes so many
        are drawn that each stands for about 1 / samples of the probability.
    temperature: of the teacher's softmax that it follows. It is the only one that a loss can have.
    keep: what else is kept of a position. "entropy", the teacher's, in steps of 1/16 nat: without it the value of a
        loss is the divergence from the kept weights, larger by what they leave out (the gradient is the same), and
        `kdcache eval` tells no KL. "label_loss", −log p of the label at T = 1: how well the teacher knows the labels.
    """

    kind: Literal["drawn"] = "drawn"
    samples: Annotated[int, Setting(ge=2, le=MOST_SAMPLES)] = 32
    temperature: Annotated[float, Setting(ge=1 / MAX_BETA, allow_inf_nan=False)] = 1.0
    keep: tuple[Literal["entropy", "label_loss"], ...] = ("entropy",)

    @model_validator(mode="after")
    def _can_be_kept(self) -> Self:
        if len(set(self.keep)) < len(self.keep):
            raise ValueError(f"got keep {', '.join(self.keep)}, expected each once")
        if "label_loss" in self.keep and self.temperature != 1:
            raise ValueError(f"got keep label_loss at temperature {self.temperature:g}, expected temperature 1")
        return self

    @property
    def plan(self) -> Plan:
        """What is kept of a row, for the makers of sparse records."""
        return Plan(0, self.samples, (self.temperature,), CurveSpec(temperatures=(self.temperature,)), "float32")

    def fields(self, num_classes: int, *, width: int | None = None, rank: int | None = None) -> list[Field]:
        return [
            *([Field("entropy", "position", "uint8")] if "entropy" in self.keep else []),
            *([Field("label_loss", "position", "uint16")] if "label_loss" in self.keep else []),
            Field("ids", "entry", class_dtype(num_classes)),
            Field("shares", "entry", "uint8"),
        ]

    def encode(self, rows: "TeacherRows", encoder: "Encoder | None" = None) -> dict[str, np.ndarray]:
        from kdcache.targets.drawn_codec import encode, label_logits, label_losses
        from kdcache.targets.host import coming
        from kdcache.targets.sparse_rows import sparse_blocks

        of_labels = coming(label_logits(rows))
        blocks = sparse_blocks(rows, self.plan)
        arrays, log_partition_P = encode(blocks, self.samples, self.temperature, rows.num_classes)
        if "label_loss" in self.keep:
            arrays["label_loss"] = label_losses(of_labels(), log_partition_P)
        if "entropy" not in self.keep:
            del arrays["entropy"]
        return arrays

    def facts(self, arrays: Mapping[str, np.ndarray], num_classes: int) -> Mapping[str, int]:
        counts_P = arrays["entry_counts"].astype(np.int64)
        first_E = counts_P.cumsum() - counts_P
        each_has_certain = (counts_P > 0).all() and arrays["shares"][first_E].all()
        return {"most_entries": int(counts_P.max(initial=1)), "each_has_certain": int(each_has_certain)}

    def decode(
        self,
        arrays: "Mapping[str, Tensor]",
        num_classes: int,
        facts: Mapping[str, int],
        basis: "Basis | None" = None,
    ) -> "DrawnTargets":
        from kdcache.targets.drawn_codec import decode

        return decode(arrays, self.samples, self.temperature, num_classes, facts)

    def faults(self, arrays: Mapping[str, np.ndarray], num_classes: int) -> Iterator[str]:
        counts_P, certain_E = arrays["entry_counts"].astype(np.int64), arrays["shares"] > 0
        most = min(num_classes, self.plan.most_entries)
        if len(counts_P) and counts_P.max() > most:
            yield f"a position has {counts_P.max()} entries, expected at most {most}"
        first_E = np.zeros(len(certain_E) + 1, bool)
        first_E[counts_P.cumsum() - counts_P] = True
        first_E = first_E[:-1]
        after_drawn_E = ~first_E & ~np.concatenate([[True], certain_E[:-1]])
        if (certain_E & after_drawn_E).any():
            yield "a certain entry comes after a drawn one"
        ids_E = arrays["ids"].astype(np.int64)
        if (~certain_E & after_drawn_E & (ids_E == 0)).any():
            yield "a class is drawn twice"
        if len(ids_E) and (largest := _classes(ids_E, certain_E, after_drawn_E).max()) >= num_classes:
            yield f"ids go up to {largest}, expected below {num_classes}"

    def answers(self, temperature: float) -> bool:
        return abs(temperature - self.temperature) <= 1e-6 * self.temperature

    def entries_per_position(self, num_classes: int) -> int:
        """Half of the draws fall on classes that are certain or drawn already."""
        return min(num_classes, self.samples // 2 + 1)

    def misfit(self, *, few_classes: bool, whole_examples: bool) -> str | None:
        return f"got record.kind {self.kind}, expected dense, which holds every class" if few_classes else None


def _classes(ids_E: np.ndarray, certain_E: np.ndarray, after_drawn_E: np.ndarray) -> np.ndarray:
    """The class of each entry: drawn ones after the first of their row are stored as gaps."""
    running_E = ids_E.cumsum()
    start_E = np.maximum.accumulate(np.where(after_drawn_E & ~certain_E, 0, np.arange(len(ids_E))))
    return running_E - running_E[start_E] + ids_E[start_E]
