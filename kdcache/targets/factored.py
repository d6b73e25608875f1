"""Factored: the shape of the whole distribution, in `rank` bytes per position.

A language model's logits are W h + b, h the input of its output layer. The cache keeps one basis of their principal
directions (calibration.py), and each position its coefficients in it, beside the entries and the curve of a sparse
record. For temperatures above 1 and for divergences other than forward KL, where a sample is too noisy.

Coefficients are zigzag-coded (0, −1, 1, −2 … → 0, 1, 2, 3 …), so that the high bits of small ones are idle.

P positions, R directions of the basis, N calibration rows, D hidden width.
"""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Annotated, ClassVar, Literal, Self

import numpy as np
from pydantic import Field as Setting
from pydantic import model_validator

from kdcache.config.base import Count
from kdcache.errors import ConfigError
from kdcache.targets.fields import Field
from kdcache.targets.plan import Plan
from kdcache.targets.sparse import Sparse, check_proposals

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.targets.basis import Basis
    from kdcache.targets.calibration import Encoder
    from kdcache.targets.output_layer import OutputLayer
    from kdcache.targets.sparse_targets import SparseTargets
    from kdcache.targets.teacher_rows import TeacherRows

__all__ = ["Factored"]


class Factored(Sparse):
    """The largest logits of a row, and coefficients that say how the other classes share the rest.

    rank: how many directions of the basis, each a coefficient of one byte per position; "full" takes as many as the
        hidden state has numbers, so that nothing is lost but the rounding.
    dtype: the integers that coefficients are rounded to.
    calibration_positions: how many positions the directions are found from, the first of the corpus; "auto" takes 8 for
        each number of the hidden state, 4096 at least.
    exact_top_k: how many of the largest logits are kept for certain.
    samples: how many of the other classes are drawn beside the coefficients. Where some are, forward KL at temperatures
        up to 1 uses the sample, and all else the coefficients.
    proposal_temperatures: where samples are drawn, the draw follows the mean of the teacher's softmax at these; each
        must be on the curve.
    logit_dtype: how a kept logit is stored, relative to the row's maximum. "uint16", logarithmic steps, keeps log Z
        to 1e-3; "uint8" saves 3 bytes per position and keeps it to 1e-2; "float16" and "float32" are as they say.
    curve: where the partition curve of the tail is stored; the coefficients share the mass that it gives, at any
        temperature that it answers.
    """

    calibrated: ClassVar[bool] = True
    late_fields: ClassVar[tuple[str, ...]] = ("coefficients",)

    kind: Literal["factored"] = "factored"
    rank: Count | Literal["full"] = "full"
    dtype: Literal["int8"] = "int8"
    calibration_positions: Count | Literal["auto"] = "auto"
    exact_top_k: Annotated[int, Setting(ge=0, le=32768)] = 8
    samples: Annotated[int, Setting(ge=0, le=4096)] = 0
    proposal_temperatures: tuple[float, ...] = (1.0,)

    @model_validator(mode="after")
    def _has_entries(self) -> Self:
        if self.exact_top_k == 0 and self.samples == 0:
            raise ValueError("got exact_top_k 0 and samples 0, expected at least one above 0")
        if self.samples:
            check_proposals(self.proposal_temperatures, self.curve)
        return self

    @property
    def plan(self) -> Plan:
        proposals = self.proposal_temperatures if self.samples else ()
        return Plan(self.exact_top_k, self.samples, proposals, self.curve, self.logit_dtype)

    def fields(self, num_classes: int, *, width: int | None = None, rank: int | None = None) -> list[Field]:
        """The coefficients stand before the entries, once there is a basis."""
        fields = super().fields(num_classes)
        if rank is None:
            return fields
        at = next(i for i, field in enumerate(fields) if field.level == "entry")
        return [*fields[:at], Field("coefficients", "position", "uint8", (rank,), shuffle="bits"), *fields[at:]]

    def encode(self, rows: "TeacherRows", encoder: "Encoder | None" = None) -> dict[str, np.ndarray]:
        if encoder is None or rows.hidden_PD is None:
            raise ConfigError(
                "got no hidden states or no encoder for factored records, expected both: the inputs of the output "
                "layer, and what makes coefficients of them"
            )
        encoder.check_never(rows.logits_PV)
        coefficients_PR = encoder.coefficients(rows.hidden_PD)
        return super().encode(rows) | {"coefficients": _zigzag(coefficients_PR)}

    def decode(
        self,
        arrays: "Mapping[str, Tensor]",
        num_classes: int,
        facts: Mapping[str, int],
        basis: "Basis | None" = None,
    ) -> "SparseTargets":
        """Without a basis the coefficients are left aside, and the record answers as a sparse one."""
        if basis is None:
            return super().decode(arrays, num_classes, facts)
        from kdcache.targets.factored_targets import FactoredTargets
        from kdcache.targets.sparse_decoding import decode

        return FactoredTargets(
            **decode(arrays, self.plan, num_classes, facts),
            tail="sampled" if self.samples else "factored",
            coefficients_PR=_unzigzag(arrays["coefficients"]),
            basis=basis,
        )

    def positions_for(self, hidden: int) -> int:
        return max(4096, 8 * hidden) if self.calibration_positions == "auto" else self.calibration_positions

    def make_basis(self, layer: "OutputLayer", hidden_ND: "Tensor", num_classes: int) -> "Basis":
        from kdcache.targets.calibration import make_basis

        return make_basis(layer, hidden_ND, self.rank, num_classes)

    def make_encoder(self, basis: "Basis", layer: "OutputLayer") -> "Encoder":
        from kdcache.targets.calibration import Encoder

        return Encoder(basis, layer)


def _zigzag(coefficients_PR: "Tensor") -> np.ndarray:
    import torch

    codes: np.ndarray = ((coefficients_PR << 1) ^ (coefficients_PR >> 7)).view(torch.uint8).cpu().numpy()
    return codes


def _unzigzag(codes_PR: "Tensor") -> "Tensor":
    import torch

    return (codes_PR >> 1).view(torch.int8) ^ -(codes_PR & 1).view(torch.int8)
