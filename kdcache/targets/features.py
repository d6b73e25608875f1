"""Features: the teacher's last hidden states, for a bottleneck term. Beside a distribution, or alone."""

from typing import TYPE_CHECKING, ClassVar, Literal

import numpy as np

from kdcache.errors import ConfigError
from kdcache.targets.fields import Field
from kdcache.targets.kind import RecordKind

if TYPE_CHECKING:
    from kdcache.targets.calibration import Encoder
    from kdcache.targets.teacher_rows import TeacherRows

__all__ = ["Features"]


class Features(RecordKind):
    """The teacher's last hidden states, as float16.

    at: at the "positions", or, of a sequence classification, "pooled": their mean over the example's tokens.
    """

    distribution: ClassVar[bool] = False

    kind: Literal["features"] = "features"
    at: Literal["positions", "pooled"] = "positions"

    @property
    def features_at(self) -> Literal["positions", "pooled"]:
        return self.at

    def fields(self, num_classes: int, *, width: int | None = None, rank: int | None = None) -> list[Field]:
        if width is None:
            raise ConfigError("got no width of the teacher's features, expected it for a record of features")
        return [Field("features", "position", "float16", (width,))]

    def encode(self, rows: "TeacherRows", encoder: "Encoder | None" = None) -> dict[str, np.ndarray]:
        """A number beyond the largest of float16 is stored as that."""
        import torch

        if rows.features_PH is None:
            raise ConfigError("got no features of the teacher, expected them for a record of features")
        largest = torch.finfo(torch.float16).max
        return {"features": rows.features_PH.float().clamp(-largest, largest).half().cpu().numpy()}

    def misfit(self, *, few_classes: bool, whole_examples: bool) -> str | None:
        pooled = self.at == "pooled" and not whole_examples
        return "got features at pooled, expected at: positions" if pooled else None
