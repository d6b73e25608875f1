"""Unit: the examples and records of one shard, gathered before they are committed.

P positions, V classes, D hidden width, H width of the features.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING

import numpy as np

from kdcache.errors import CacheError
from kdcache.store.backend import array_fields
from kdcache.store.checked import Array, checked_example
from kdcache.store.manifest import Header
from kdcache.targets.fields import Field

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.targets.calibration import Encoder
    from kdcache.targets.teacher_rows import TeacherRows
    from kdcache.tasks.example import Example

__all__ = ["EXAMPLES_PER_UNIT", "Unit"]

EXAMPLES_PER_UNIT = 1 << 20
"""Room for example numbers in a unit: example number = unit · 2²⁰ + index in the unit."""


class Unit:
    """Fill it with `add` (examples with what a teacher says of them), or with `add_example` and `add_record` (records
    made elsewhere).

    notes: counts that go into the commit record, such as {"truncated": 3}.
    """

    def __init__(self, header: Header, index: int, encoder: "Encoder | None" = None) -> None:
        """encoder: of calibrated records, for `add`."""
        self.header = header
        self.index = index
        self.encoder = encoder
        self.notes: dict[str, int] = {}
        self._levels = {field.name: field.level for field in array_fields(header.fields)}
        self._parts: dict[str, list[np.ndarray]] = {field.name: [] for field in array_fields(header.fields)}
        self._examples = 0
        self._positions = 0
        self._records = 0

    def __len__(self) -> int:
        return self._examples

    def add(
        self,
        example: "Example | Array",
        logits: Array | None = None,
        *,
        hidden: Array | None = None,
        features: Array | None = None,
    ) -> None:
        """One example with what the teacher says at its positions.

        Args:
            example: one that `checked_example` gave, or tokens [L] with the defaults of that function.
            logits: raw, [P, V]; None in a label-only cache.
            hidden: of factored records, what the output layer makes them of, [P, D]; logits may then be None.
            features: of a record of features, [P, H].

        Raises:
            CacheError: for what cannot be stored.
        """
        from kdcache.tasks.example import Example

        if not isinstance(example, Example):
            example = checked_example(self.header, example)
        rows = self._rows(example, logits, hidden, features)
        self.add_example(example)
        if rows is not None:
            from kdcache.targets.recorder import Recorder

            self.add_record(Recorder(self.header.records, self.encoder).arrays(rows))

    def add_example(self, example: "Example") -> None:
        """One that is checked; its records go to `add_record` afterwards."""
        if self._examples == EXAMPLES_PER_UNIT:
            raise CacheError(
                f"unit {self.index} is full: got more than {EXAMPLES_PER_UNIT} examples, use smaller units"
            )
        for name, array in _example_arrays(example).items():
            if name in self._parts:
                self._parts[name].append(array)
        self._examples += 1
        self._positions += len(example.positions)

    def add_record(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Records of the next positions, as a Recorder gives them; a block need not end where an example does."""
        for name, array in arrays.items():
            self._parts[name].append(array)
        self._records += len(next(array for name, array in arrays.items() if self._levels.get(name) == "position"))

    def arrays(self, *, last: bool = False) -> dict[str, np.ndarray]:
        """The arrays of the shard.

        Args:
            last: Whether nobody asks the unit again: then its parts go as they are joined, and are not held twice.

        Raises:
            CacheError: There is not one record for each position.
        """
        expected = self._positions if self.header.records else 0
        if self._records != expected:
            raise CacheError(f"got {self._records} records in unit {self.index}, expected {expected}, one per position")
        return {field.name: self._joined(field, last) for field in array_fields(self.header.fields)}

    def _rows(
        self, example: "Example", logits: Array | None, hidden: Array | None, features: Array | None
    ) -> "TeacherRows | None":
        """What the teacher says of an example, checked; None in a label-only cache."""
        P = len(example.positions)
        hidden_PD = None
        if hidden is not None:
            logits, hidden_PD = self._with_hidden(logits, hidden, P)
        elif self.encoder is not None:
            raise CacheError("got no hidden states with an example, expected them: its record is factored")
        wanted = self.header.distribution is not None
        if (logits is not None) != wanted:
            without = "none in a cache without the teacher's distributions"
            got, expected = ("no logits", "logits") if logits is None else ("logits", without)
            raise CacheError(f"got {got} with an example, expected {expected}")
        features_PH = self._features(features, P)
        if not self.header.records:
            return None
        import torch

        from kdcache.targets.teacher_rows import TeacherRows

        keys_P3 = np.empty((P, 3), np.int64)
        number = self.index * EXAMPLES_PER_UNIT + self._examples
        keys_P3[:, 0], keys_P3[:, 1], keys_P3[:, 2] = self.header.seed, number, example.positions
        logits_PV = as_logits(logits, P, self.header.num_classes) if wanted else torch.empty(P, 0)
        return TeacherRows(logits_PV, example.labels, keys_P3, hidden_PD, features_PH)

    def _features(self, features: Array | None, P: int) -> "Tensor | None":
        width = self.header.features_width
        if (features is None) != (width is None):
            got, expected = ("no features", "them") if features is None else ("features", "none")
            raise CacheError(f"got {got} with an example, expected {expected}: see record.kind features")
        if features is None:
            return None
        import torch

        tensor = features.detach() if isinstance(features, torch.Tensor) else torch.from_numpy(np.array(features))
        if tuple(tensor.shape) != (P, width):
            raise CacheError(f"got features {[*tensor.shape]}, expected {[P, width]}: a row for each position")
        return tensor

    def _with_hidden(self, logits: Array | None, hidden: Array, P: int) -> "tuple[Array, Tensor]":
        """(logits, hidden states) of an example; the two are compared once a unit."""
        import torch

        if self.encoder is None:
            raise CacheError("got hidden states with an example, expected none: its record is not factored")
        layer = self.encoder.layer
        hidden_PD = (hidden if isinstance(hidden, torch.Tensor) else torch.from_numpy(np.array(hidden))).detach()
        if tuple(hidden_PD.shape) != (P, layer.hidden):
            raise CacheError(
                f"got hidden states {[*hidden_PD.shape]}, expected [{P}, {layer.hidden}]: a row for each position"
            )
        if logits is None:
            logits = layer.logits(hidden_PD)[:, : self.header.num_classes]
        elif self._examples == 0 and P:
            layer.check(hidden_PD[:8], as_logits(logits, P, self.header.num_classes)[:8])
        return logits, hidden_PD

    def _joined(self, field: Field, last: bool) -> np.ndarray:
        """Parts in their stored dtype; checked values fit it."""
        found = self._parts.pop(field.name) if last else self._parts[field.name]
        parts = [part.astype(field.dtype, copy=False) for part in found]
        return np.concatenate(parts) if parts else np.zeros((0, *field.shape), field.dtype)


def _example_arrays(example: "Example") -> dict[str, np.ndarray]:
    """What a shard may keep of a checked example, and its counts."""
    assert example.types is not None
    return {
        "tokens": example.tokens,
        "token_types": example.types,
        "positions": example.positions,
        "labels": example.labels,
        "document_lengths": example.documents,
        "continues": np.array([example.continues]),
        "token_counts": np.array([len(example.tokens)]),
        "position_counts": np.array([len(example.positions)]),
        "document_counts": np.array([len(example.documents)]),
    }


def as_logits(logits: Array, rows: int, num_classes: int) -> "Tensor":
    """Logits [P, V] as a tensor where they are. Raises CacheError for another shape or for integers."""
    import torch

    tensor = logits if isinstance(logits, torch.Tensor) else torch.from_numpy(np.array(logits))
    if tuple(tensor.shape) != (rows, num_classes) or not tensor.is_floating_point():
        raise CacheError(
            f"got logits {str(tensor.dtype).removeprefix('torch.')}{[*tensor.shape]}, expected floats "
            f"[{rows}, {num_classes}]: one row per position (the last token has none), one column per class"
        )
    return tensor.detach()
