"""compress: rows of teacher logits to what a reader of a cache will get back for them.

P positions, V classes, D hidden width.
"""

from collections.abc import Mapping
from typing import Any

import numpy as np
from torch import Tensor

from kdcache.errors import ConfigError
from kdcache.targets.calibration import Encoder
from kdcache.targets.coded import Coded
from kdcache.targets.kind import RecordKind
from kdcache.targets.record import TeacherTargets
from kdcache.targets.recorder import Recorder
from kdcache.targets.records import record_kinds
from kdcache.targets.teacher_rows import TeacherRows

__all__ = ["compress", "compress_to_arrays"]


def compress(
    logits_PV: Tensor,
    record: RecordKind | Mapping[str, Any],
    generator_keys: object = None,
    *,
    labels_P: object = None,
    hidden_PD: Tensor | None = None,
    encoder: Encoder | None = None,
) -> TeacherTargets:
    """What a reader of the cache will get back for these rows: the quantised round trip.

    Args:
        logits_PV: raw teacher logits [P, V], any float dtype and device.
        record: the record kind, or its settings, such as {"kind": "sampled"}.
        generator_keys: anything that converts to int64 [P, 3] = (seed, example, position), the keys of the draws;
            without it row i has the key (0, 0, i).
        labels_P: the label of each row, −100 where there is none; by default of no row.
        hidden_PD: of a factored record, the inputs of the output layer [P, D].
        encoder: of a factored record, what makes coefficients of these.

    Returns:
        The records, on the device of the logits.

    Raises:
        TeacherError: for NaN, +inf or nothing but −inf in a row.
        ConfigError: for settings, keys, labels or hidden states that are not right.
    """
    kind, arrays = _compressed(logits_PV, record, generator_keys, labels_P, hidden_PD, encoder)
    basis = None if encoder is None else encoder.basis
    return Coded.of(kind, arrays, logits_PV.shape[1], basis).targets().to(logits_PV.device)


def compress_to_arrays(
    logits_PV: Tensor,
    record: RecordKind | Mapping[str, Any],
    generator_keys: object = None,
    labels_P: object = None,
    hidden_PD: Tensor | None = None,
    encoder: Encoder | None = None,
) -> dict[str, np.ndarray]:
    """What a shard keeps of these rows: the arrays of the kind's `fields`, and entry_counts of a sparse record.

    Args, Raises: as of `compress`.
    """
    return _compressed(logits_PV, record, generator_keys, labels_P, hidden_PD, encoder)[1]


def _compressed(
    logits_PV: Tensor,
    record: RecordKind | Mapping[str, Any],
    generator_keys: object,
    labels_P: object,
    hidden_PD: Tensor | None,
    encoder: Encoder | None,
) -> tuple[RecordKind, dict[str, np.ndarray]]:
    kinds = record_kinds(record)
    if len(kinds) != 1 or not kinds[0].distribution:
        raise ConfigError(f"got record {record}, expected one kind of distribution, such as {{kind: sampled}}")
    (kind,) = kinds
    rows = TeacherRows.of(logits_PV, generator_keys, labels_P, hidden_PD)
    if encoder is not None and encoder.basis.num_classes != rows.num_classes:
        raise ConfigError(
            f"got a basis of {encoder.basis.num_classes} classes, expected {rows.num_classes}, those of the logits"
        )
    if not kind.calibrated and (encoder is not None or hidden_PD is not None):
        raise ConfigError(f"got hidden states or an encoder for a {kind.kind} record, expected none")
    return kind, Recorder(kinds, encoder).arrays(rows)
