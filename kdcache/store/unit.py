"""Unit: the examples and records of one shard, gathered and checked before they are committed.

P positions, V classes, L tokens of an example.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

import numpy as np

from kdcache.errors import CacheError
from kdcache.store.backend import array_fields
from kdcache.store.manifest import Header
from kdcache.targets.fields import Field
from kdcache.targets.spec import RecordSpec
from kdcache.tasks.registry import task_of
from kdcache.tasks.stored import as_integers

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.targets.calibration import Encoder

__all__ = ["EXAMPLES_PER_UNIT", "Unit", "checked_example", "record_arrays"]

EXAMPLES_PER_UNIT = 1 << 20
"""Room for example numbers in a unit: example number = unit · 2²⁰ + index in the unit."""

Array = Any
"""A sequence, numpy array or torch tensor of numbers."""


class Unit:
    """Fill with `add` (logits), or with `add_arrays` and `add_record` (arrays made elsewhere).

    notes: counts that go into the commit record, such as {"truncated": 3}. encoder: for `add`, of records with
    a factor.
    """

    def __init__(self, header: Header, index: int, encoder: "Encoder | None" = None) -> None:
        self.header = header
        self.index = index
        self.encoder = encoder
        self.notes: dict[str, int] = {}
        self._parts: dict[str, list[np.ndarray]] = {field.name: [] for field in array_fields(header.fields)}
        self._examples = 0
        self._positions = 0
        self._records = 0

    def __len__(self) -> int:
        return self._examples

    def add(
        self,
        tokens: Array,
        logits: Array | None = None,
        *,
        hidden: Array | None = None,
        positions: Array | None = None,
        labels: Array | None = None,
        documents: Array | None = None,
        types: Array | None = None,
        features: Array | None = None,
    ) -> None:
        """One example with the teacher's raw logits [P, V] at its positions; None in a label-only cache.

        hidden: for records with a factor, what the output layer made them of, [P, D]; logits may then be None.
        positions: by default every token but the last of a causal LM, the first of a sequence classification.
        documents: token counts, by default one document. types: token types of a classification, by default the number
        of the document. features: for records with features, [P, H].
        """
        example = checked_example(
            self.header, tokens, positions=positions, labels=labels, documents=documents, types=types
        )
        P = len(example["positions"])
        coefficients_PR = None
        if hidden is not None:
            logits, coefficients_PR = self._encoded(logits, hidden, P)
        elif self.encoder is not None:
            raise CacheError("got no hidden states with an example, expected them: its record has a factor")
        if (logits is None) != (self.header.record is None):
            got, expected = ("no logits", "logits") if logits is None else ("logits", "none in a label-only cache")
            raise CacheError(f"got {got} with an example, expected {expected}")
        number = self.index * EXAMPLES_PER_UNIT + self._examples
        self._append({**example, "continues": np.array([False]), **self._features(features, P)})
        if self.header.record is not None:
            keys_P3 = np.empty((P, 3), np.int64)
            keys_P3[:, 0], keys_P3[:, 1], keys_P3[:, 2] = self.header.seed, number, example["positions"]
            logits_PV = as_logits(logits, P, self.header.num_classes)
            self.add_record(record_arrays(logits_PV, example["labels"], self.header.record, keys_P3, coefficients_PR))

    def _features(self, features: Array | None, P: int) -> dict[str, np.ndarray]:
        """The features of an example, checked."""
        field = next((field for field in self.header.fields if field.name == "features"), None)
        if (features is None) != (field is None):
            got, expected = ("no features", "them") if features is None else ("features", "none")
            raise CacheError(f"got {got} with an example, expected {expected}: see record.features")
        if field is None or features is None:
            return {}
        array = np.asarray(features.detach().float().cpu() if hasattr(features, "detach") else features)
        if array.shape != (P, *field.shape):
            raise CacheError(f"got features {[*array.shape]}, expected {[P, *field.shape]}: a row a position")
        return {"features": array.astype(np.float16)}

    def _encoded(self, logits: Array | None, hidden: Array, P: int) -> "tuple[Array, Tensor]":
        """(logits, coefficients) of an example's hidden states."""
        import torch

        if self.encoder is None:
            raise CacheError("got hidden states with an example, expected none: its record has no factor")
        layer = self.encoder.layer
        hidden_PD = (hidden if isinstance(hidden, torch.Tensor) else torch.from_numpy(np.array(hidden))).detach()
        if tuple(hidden_PD.shape) != (P, layer.hidden):
            raise CacheError(
                f"got hidden states {[*hidden_PD.shape]}, expected [{P}, {layer.hidden}]: a row a position"
            )
        if logits is None:
            logits = layer.logits(hidden_PD)[:, : self.header.num_classes]
        elif self._examples == 0 and P:
            layer.check(hidden_PD[:8], as_logits(logits, P, self.header.num_classes)[:8])
        self.encoder.check_never(as_logits(logits, P, self.header.num_classes))
        return logits, self.encoder.coefficients(hidden_PD)

    def add_arrays(
        self,
        *,
        tokens: Array,
        positions: Array | None = None,
        labels: Array | None = None,
        documents: Array | None = None,
        types: Array | None = None,
        continues: bool = False,
        record: Mapping[str, np.ndarray] | None = None,
    ) -> None:
        """One example, and what `record_arrays` made of its logits; or give records to `add_record` afterwards.

        continues: of token classification, whether it is a further window of the example before.
        """
        example = checked_example(
            self.header, tokens, positions=positions, labels=labels, documents=documents, types=types
        )
        self._append({**example, "continues": np.array([continues])})
        if record is not None:
            self.add_record(record)

    def add_record(self, arrays: Mapping[str, np.ndarray]) -> None:
        """Records of the next positions, as `record_arrays` gives them; a block need not end where an example does."""
        for name, array in arrays.items():
            self._parts[name].append(array)
        self._records += len(arrays["maximum"])

    def arrays(self) -> dict[str, np.ndarray]:
        """The arrays of the shard. Raises CacheError unless there is one record for each position."""
        expected = self._positions if self.header.record is not None else 0
        if self._records != expected:
            raise CacheError(f"got {self._records} records in unit {self.index}, expected {expected}, one a position")
        return {field.name: self._joined(field) for field in array_fields(self.header.fields)}

    def _append(self, example: Mapping[str, np.ndarray]) -> None:
        if self._examples == EXAMPLES_PER_UNIT:
            raise CacheError(
                f"unit {self.index} is full: got more than {EXAMPLES_PER_UNIT} examples, use smaller units"
            )
        for name, array in example.items():
            if name in self._parts:
                self._parts[name].append(array)
        self._examples += 1
        self._positions += len(example["positions"])

    def _joined(self, field: Field) -> np.ndarray:
        """Parts in their stored dtype; checked values fit it."""
        parts = [part.astype(field.dtype, copy=False) for part in self._parts[field.name]]
        return np.concatenate(parts) if parts else np.zeros((0, *field.shape), field.dtype)


def checked_example(
    header: Header,
    tokens: Array,
    *,
    positions: Array | None,
    labels: Array | None,
    documents: Array | None,
    types: Array | None = None,
) -> dict[str, np.ndarray]:
    """tokens, types, positions, labels, document_lengths and their counts, int64; labels as the task stores them.

    Raises CacheError for what cannot be stored.
    """
    task = task_of(header.task)
    tokens_L = as_integers(tokens, "tokens")
    L = len(tokens_L)
    limit = header.tokenizer.vocab_size if header.tokenizer else np.iinfo(_dtype(header, "tokens")).max + 1
    if L == 0:
        raise CacheError("got an example of no tokens, expected at least one")
    if tokens_L.min() < 0 or tokens_L.max() >= limit:
        raise CacheError(f"got token ids {tokens_L.min()} to {tokens_L.max()}, expected 0 to {limit - 1}")
    positions_P = as_integers(task.default_positions(L) if positions is None else positions, "positions")
    end = task.end(L)
    if len(positions_P) and (positions_P[0] < 0 or positions_P[-1] >= end or (np.diff(positions_P) <= 0).any()):
        last = f"the example has {L} tokens" if end == L else "the last token has no next one to predict"
        raise CacheError(f"got positions {_some(positions_P)}, expected them ascending from 0 to {end - 1}: {last}")
    documents_D = np.array([L]) if documents is None else as_integers(documents, "documents")
    if documents_D.sum() != L or (documents_D <= 0).any():
        raise CacheError(f"got document lengths {_some(documents_D)}, expected ones above 0 that sum to {L}")
    types_L = np.arange(len(documents_D)).repeat(documents_D) if types is None else as_integers(types, "token types")
    if len(types_L) != L or (not task.generates and not 0 <= types_L.min() <= types_L.max() < 256):
        raise CacheError(f"got token types {_some(types_L)}, expected {L} of them from 0 to 255, one a token")
    return {
        "tokens": tokens_L,
        "token_types": types_L,
        "positions": positions_P,
        "labels": task.checked_labels(labels, tokens_L, positions_P, header.num_classes),
        "document_lengths": documents_D,
        "token_counts": np.array([L]),
        "position_counts": np.array([len(positions_P)]),
        "document_counts": np.array([len(documents_D)]),
    }


def record_arrays(
    logits_PV: "Tensor",
    labels_P: np.ndarray,
    spec: RecordSpec,
    keys_P3: object,
    coefficients_PR: "Tensor | None" = None,
) -> dict[str, np.ndarray]:
    """The position and entry arrays of these rows: `compress_to_arrays`, and of sparse records the label's logit.

    keys_P3: (seed, example number, position) of each row. coefficients_PR: with a factor. label_logits are relative to
    the row's maximum, float16; of a label that is not known, that of class 0, of one that is never given −240.
    """
    import torch

    from kdcache.targets.compress import compress_to_arrays
    from kdcache.targets.never import LOG_NEVER, NEVER

    logits_PV = logits_PV.float()
    arrays = compress_to_arrays(logits_PV, spec, keys_P3, coefficients_PR)
    if spec.dense:
        return arrays
    labels = torch.from_numpy(np.ascontiguousarray(labels_P, np.int64)).to(logits_PV.device)
    label_logits_P = logits_PV.gather(1, labels.clamp(min=0)[:, None])[:, 0].cpu().numpy() - arrays["maximum"]
    lowest = np.where(label_logits_P <= NEVER, LOG_NEVER, np.finfo(np.float16).min)
    return {**arrays, "label_logits": np.maximum(label_logits_P, lowest).astype(np.float16)}


def as_logits(logits: Array, rows: int, num_classes: int) -> "Tensor":
    """Logits [P, V] as a tensor where they are. Raises CacheError for another shape or for integers."""
    import torch

    tensor = logits if isinstance(logits, torch.Tensor) else torch.from_numpy(np.array(logits))
    if tuple(tensor.shape) != (rows, num_classes) or not tensor.is_floating_point():
        raise CacheError(
            f"got logits {str(tensor.dtype).removeprefix('torch.')}{[*tensor.shape]}, expected floats "
            f"[{rows}, {num_classes}]: one row a position (the last token has none), one column a class"
        )
    return tensor.detach()


def _dtype(header: Header, name: str) -> str:
    return next(field.dtype for field in header.fields if field.name == name)


def _some(values: np.ndarray) -> str:
    shown = ", ".join(str(value) for value in values[:8])
    return f"{shown}, …" if len(values) > 8 else shown or "none"
