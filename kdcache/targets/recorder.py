"""Recorder: rows of a teacher to the arrays of a cache's records. The one place where a position's record is assembled.

Whoever runs a teacher gives its rows here: dump, CacheWriter, and `compress` for a single kind.
"""

from collections.abc import Sequence

import numpy as np
import torch

from kdcache.targets.calibration import Encoder
from kdcache.targets.fields import COUNTS, empty_arrays
from kdcache.targets.kind import RecordKind
from kdcache.targets.teacher_rows import TeacherRows

__all__ = ["Recorder"]


class Recorder:
    """encoder: of the calibrated kind, where one of them is."""

    def __init__(self, records: Sequence[RecordKind], encoder: Encoder | None = None) -> None:
        self.records, self.encoder = tuple(records), encoder

    @torch.no_grad()
    def arrays(self, rows: TeacherRows) -> dict[str, np.ndarray]:
        """The arrays of `record_fields`, and entry_counts where one of them is of level "entry".

        Raises:
            TeacherError: for NaN, +inf or nothing but −inf in a row.
            ConfigError: where a record needs what the rows do not have.
        """
        arrays: dict[str, np.ndarray] = {}
        for kind in self.records:
            arrays |= kind.encode(rows, self.encoder) if len(rows) else self._none_of(kind, rows)
        return arrays

    def _none_of(self, kind: RecordKind, rows: TeacherRows) -> dict[str, np.ndarray]:
        width = None if rows.features_PH is None else rows.features_PH.shape[1]
        rank = None if self.encoder is None else self.encoder.basis.rank
        arrays = empty_arrays(kind.fields(rows.num_classes, width=width, rank=rank))
        return {name: array for name, array in arrays.items() if name != COUNTS["position"]}
