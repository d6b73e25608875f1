"""Dense: the logit of every class, exact at every temperature and for every divergence.

The default of a classification.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Literal

import numpy as np

from kdcache.targets.constants import FLOOR
from kdcache.targets.fields import Field
from kdcache.targets.kind import RecordKind
from kdcache.targets.logit_codec import DENSE_STEPS, stored_maximum, to_steps

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.targets.basis import Basis
    from kdcache.targets.calibration import Encoder
    from kdcache.targets.dense_targets import DenseTargets
    from kdcache.targets.teacher_rows import TeacherRows

__all__ = ["Dense"]


class Dense(RecordKind):
    """The logit of every class.

    logit_dtype: how a logit is stored, relative to the row's maximum: "float16", "float32", or "uint16" in logarithmic
        steps, within 3.4e-4 (1 + maximum − logit) nats. 256 steps over a whole row's range would be too coarse.
    """

    kind: Literal["dense"] = "dense"
    logit_dtype: Literal["uint16", "float16", "float32"] = "float16"

    def fields(self, num_classes: int, *, width: int | None = None, rank: int | None = None) -> list[Field]:
        steps = DENSE_STEPS if self.logit_dtype == "uint16" else None
        return [
            Field("maximum", "position", "float32"),
            Field("logits", "position", self.logit_dtype, (num_classes,), steps),
        ]

    def encode(self, rows: "TeacherRows", encoder: "Encoder | None" = None) -> dict[str, np.ndarray]:
        from kdcache.targets.never import NEVER, NEVER_CODE, refuse

        maximum = rows.logits_PV.amax(-1).float()
        refuse(maximum.isfinite(), 0, len(rows))
        maximum_P = maximum.cpu().numpy()
        relative_PV = (rows.logits_PV.float() - maximum[:, None]).cpu().numpy()
        never_PV = relative_PV <= NEVER
        relative_PV = np.maximum(relative_PV, np.float32(FLOOR))
        arrays = {"maximum": stored_maximum(maximum_P, self.logit_dtype)}
        if self.logit_dtype == "uint16":
            codes_PV = to_steps(relative_PV, np.asarray(DENSE_STEPS[0]), None)
            return arrays | {"logits": np.where(never_PV, NEVER_CODE, codes_PV)}
        relative_PV[never_PV] = -np.inf
        return arrays | {"logits": relative_PV.astype(self.logit_dtype)}

    def decode(
        self,
        arrays: "Mapping[str, Tensor]",
        num_classes: int,
        facts: Mapping[str, int],
        basis: "Basis | None" = None,
    ) -> "DenseTargets":
        from kdcache.targets.dense_targets import DenseTargets
        from kdcache.targets.logit_codec import from_octaves
        from kdcache.targets.never import NEVER

        relative_PV = arrays["logits"]
        if self.logit_dtype == "uint16":
            relative_PV = from_octaves(relative_PV, DENSE_STEPS[0])
        never_PV = relative_PV < 2 * FLOOR
        return DenseTargets.of(relative_PV.float().masked_fill(never_PV, NEVER), arrays["maximum"].float())

    def numbers_per_position(self, num_classes: int) -> int:
        return num_classes
