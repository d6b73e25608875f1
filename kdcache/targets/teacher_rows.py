"""TeacherRows: what a teacher says at some positions, from which records are made.

P positions, V classes, D hidden width, H width of the features.
"""

from dataclasses import dataclass

import numpy as np
import torch
from torch import Tensor

from kdcache.errors import ConfigError
from kdcache.targets.curve_spec import MAX_CLASSES
from kdcache.targets.fields import NO_LABEL
from kdcache.targets.host import to_device

__all__ = ["TeacherRows", "draw_keys"]


@dataclass(frozen=True, eq=False)
class TeacherRows:
    """logits_PV: raw, any float dtype and device. labels_P: int64 [P], NO_LABEL where it is not known. keys_P3: int64,
    (seed, example number, position) of each row, the keys of the draws.

    hidden_PD: the inputs of the output layer that makes the logits. features_PH: the hidden features to be stored.
    """

    logits_PV: Tensor
    labels_P: np.ndarray
    keys_P3: np.ndarray
    hidden_PD: Tensor | None = None
    features_PH: Tensor | None = None

    @classmethod
    def of(
        cls, logits_PV: Tensor, keys: object = None, labels_P: object = None, hidden_PD: Tensor | None = None
    ) -> "TeacherRows":
        """From what a user gives. Raises ConfigError for another shape."""
        if logits_PV.ndim != 2:
            raise ConfigError(f"got logits of shape {[*logits_PV.shape]}, expected [positions, classes]")
        P, V = logits_PV.shape
        if not 0 < V <= MAX_CLASSES:
            raise ConfigError(f"got {V} classes, expected 1 to {MAX_CLASSES}")
        if labels_P is None:
            labels = np.full(P, NO_LABEL, np.int64)
        else:
            labels = np.asarray(labels_P.cpu() if isinstance(labels_P, Tensor) else labels_P, np.int64)
        if labels.shape != (P,):
            raise ConfigError(f"got labels {[*labels.shape]}, expected [{P}], one for each row of logits")
        if hidden_PD is not None and (hidden_PD.ndim != 2 or len(hidden_PD) != P):
            raise ConfigError(f"got hidden states {[*hidden_PD.shape]}, expected a row for each of {P} rows of logits")
        return cls(logits_PV, labels, draw_keys(keys, P), hidden_PD)

    def __len__(self) -> int:
        return len(self.logits_PV)

    @property
    def num_classes(self) -> int:
        return self.logits_PV.shape[1]

    def labels_on(self, device: torch.device) -> Tensor:
        """The labels there, int64 [P], 0 for one that is not known."""
        return to_device(np.ascontiguousarray(self.labels_P, np.int64), device).clamp(min=0)


def draw_keys(keys: object, P: int) -> np.ndarray:
    """int64 [P, 3]; without keys row i has the key (0, 0, i). Raises ConfigError for another shape."""
    if keys is None:
        return np.stack([np.zeros(P, np.int64), np.zeros(P, np.int64), np.arange(P)], 1)
    if isinstance(keys, Tensor):
        keys = keys.cpu().numpy()
    given = np.asarray(keys)
    if given.size == P == 0:
        return np.empty((0, 3), np.int64)
    whole = given.dtype.kind in "iufb" and (given == np.trunc(given)).all()
    if given.shape != (P, 3) or not whole:
        raise ConfigError(
            f"got generator_keys {given.dtype}{list(given.shape)}, expected whole numbers [{P}, 3]: seed, example, "
            "position of each row"
        )
    return np.ascontiguousarray(given, dtype=np.int64)
