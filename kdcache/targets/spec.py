"""RecordSpec: the settings of a record. No torch here, so that a manifest loads in milliseconds."""

from typing import Literal, Self

from pydantic import BaseModel, ConfigDict, Field, PositiveInt, field_validator, model_validator

__all__ = ["CurveSpec", "RecordSpec"]

MAX_CLASSES = 1 << 24


class CurveSpec(BaseModel):
    """Temperatures at which the tail's log-partition and mean are stored."""

    model_config = ConfigDict(frozen=True, extra="forbid")

    temperatures: tuple[float, ...] = (1.0, 2.0)

    @field_validator("temperatures")
    @classmethod
    def _positive_and_sorted(cls, value: tuple[float, ...]) -> tuple[float, ...]:
        if not value or any(t <= 0 for t in value):
            raise ValueError(f"got {list(value)}, expected at least one temperature, each above 0")
        return tuple(sorted(set(value)))


class RecordSpec(BaseModel):
    """What is kept of each row of teacher logits.

    exact_top_k: how many of the largest logits are kept exactly, or "all" for a dense record.
    logit_dtype: how a kept logit is stored, relative to the row's maximum.
    tail: what a loss makes of the classes outside the entries: "ghost", one extra class with their exact mass,
        or "renormalise", which drops them.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    exact_top_k: PositiveInt | Literal["all"] = 32
    logit_dtype: Literal["uint8", "float16", "float32"] = "uint8"
    tail: Literal["ghost", "renormalise"] = "ghost"
    curve: CurveSpec = Field(default_factory=CurveSpec)

    @model_validator(mode="after")
    def _dense_uses_floats(self) -> Self:
        if self.dense and self.logit_dtype == "uint8":
            raise ValueError(
                "got logit_dtype uint8 with exact_top_k all, expected float16 or float32: "
                "256 steps over a whole row's range are too coarse"
            )
        return self

    @property
    def dense(self) -> bool:
        return self.exact_top_k == "all"
