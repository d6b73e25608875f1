"""RecordKind: what is kept of a teacher at each position, as one class that owns everything about it.

To add a kind, write one file with a subclass of RecordKind: its settings are its pydantic fields, `kind:
Literal["mine"] = "mine"` among them; `fields` names the arrays it stores, `encode` makes them of a teacher's rows, and
`decode` makes a TeacherTargets of them, which answers what a loss asks (record.py; SparseTargets of sparse_targets.py
serves every kind that keeps some entries and knows the mass of the rest). Then `kdcache.register_record("mine", Mine)`.
tests/extending/label_only.py is a whole one.

No torch here, so that a manifest loads in milliseconds.

P positions, V classes, N calibration rows, D hidden width.
"""

from collections.abc import Iterator, Mapping
from typing import TYPE_CHECKING, Any, ClassVar, Literal

import numpy as np

from kdcache.config.base import Config
from kdcache.targets.fields import Field

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.targets.basis import Basis
    from kdcache.targets.calibration import Encoder
    from kdcache.targets.output_layer import OutputLayer
    from kdcache.targets.record import TeacherTargets
    from kdcache.targets.teacher_rows import TeacherRows

__all__ = ["RecordKind"]


class RecordKind(Config):
    """The settings of one record kind, and what it does with them.

    distribution: whether it is the teacher's distribution; a cache keeps at most one of these, and others beside it.
    calibrated: whether a basis is kept once for the whole cache; then it has the four methods at the end.
    late_fields: names of the fields whose shape is known once there is a basis.
    features_at: where the teacher's hidden features are taken, of a kind that stores them.
    """

    distribution: ClassVar[bool] = True
    calibrated: ClassVar[bool] = False
    late_fields: ClassVar[tuple[str, ...]] = ()

    kind: str

    @property
    def features_at(self) -> Literal["positions", "pooled"] | None:
        return None

    def fields(self, num_classes: int, *, width: int | None = None, rank: int | None = None) -> list[Field]:
        """The arrays it stores, of level "position" or "entry".

        Args:
            num_classes: V.
            width: of the teacher's hidden features, where a kind stores them.
            rank: of the basis, None as long as there is none.
        """
        raise NotImplementedError

    def encode(self, rows: "TeacherRows", encoder: "Encoder | None" = None) -> dict[str, np.ndarray]:
        """These arrays for some rows, and `entry_counts` where one of them is of level "entry".

        Args:
            rows: of a teacher, with labels and keys of the draws.
            encoder: of a calibrated kind.

        Raises:
            TeacherError: for rows that cannot be stored.
        """
        raise NotImplementedError

    def facts(self, arrays: Mapping[str, np.ndarray], num_classes: int) -> Mapping[str, int]:
        """What `decode` has to know of some arrays and would otherwise ask a GPU for, such as the most entries of a
        position. It is found on the host, by the thread that reads."""
        return {}

    def decode(
        self,
        arrays: "Mapping[str, Tensor]",
        num_classes: int,
        facts: Mapping[str, int],
        basis: "Basis | None" = None,
    ) -> "TeacherTargets":
        """What these arrays stand for, on the device that they are on; of a distribution.

        It is plain torch on whole tensors, without a loop over positions, and makes no GPU wait: no `.item()`, no
        `.cpu()`, no mask as an index. Sizes that depend on the numbers come from `facts`.

        Args:
            arrays: as `encode` gives them, as tensors: uint16 as int32, uint32 as int64, other dtypes as they are.
            num_classes: V.
            facts: what `facts` found in these arrays.
            basis: of a calibrated kind, on the same device; without it the kind answers what it can.
        """
        raise NotImplementedError

    def faults(self, arrays: Mapping[str, np.ndarray], num_classes: int) -> Iterator[str]:
        """What is wrong with stored arrays of the right dtypes and shapes, one line each: what `decode` relies on."""
        yield from ()

    def answers(self, temperature: float) -> bool:
        """Whether what is stored answers this temperature."""
        return True

    def numbers_per_position(self, num_classes: int) -> int:
        """About how many numbers a decoded position takes: a reader takes so many positions at a time."""
        return 64

    def entries_per_position(self, num_classes: int) -> int:
        """About how many elements of level "entry" a position has: what a shard's size is foretold by."""
        return min(num_classes, 32)

    def misfit(self, *, few_classes: bool, whole_examples: bool) -> str | None:
        """Why it cannot be of such a task, "got …, expected …"; None where it can.

        Args:
            few_classes: a classification, as against a language model.
            whole_examples: one position stands for the whole example.
        """
        return None

    @property
    def words(self) -> str:
        """Its settings for a person, in a line."""
        values = self.model_dump(mode="json", exclude_none=True)
        return f"{values.pop('kind')}: {_spoken(values)}"

    # Of a calibrated kind

    def positions_for(self, hidden: int) -> int:
        """How many positions to calibrate with, where hidden states are so wide."""
        raise NotImplementedError

    def make_basis(self, layer: "OutputLayer", hidden_ND: "Tensor", num_classes: int) -> "Basis":
        """What is kept once, of the hidden states of some positions."""
        raise NotImplementedError

    def make_encoder(self, basis: "Basis", layer: "OutputLayer") -> "Encoder":
        """What `encode` needs of it."""
        raise NotImplementedError


def _spoken(settings: Mapping[str, Any]) -> str:
    def spoken(value: Any) -> str:
        if isinstance(value, dict):
            return f"({_spoken(value)})"
        return (", ".join(map(str, value)) or "nothing") if isinstance(value, list) else str(value)

    return "; ".join(f"{key} {spoken(value)}" for key, value in settings.items())
