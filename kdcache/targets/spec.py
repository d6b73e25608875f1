"""RecordSpec: the settings of a record. No torch here, so that a manifest loads in milliseconds."""

from typing import Annotated, Any, Literal, Self

from pydantic import (
    BaseModel,
    ConfigDict,
    Field,
    NonNegativeInt,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

__all__ = ["DEFAULT_NODES", "MAX_CLASSES", "CurveSpec", "FactorSpec", "RecordSpec"]

MAX_CLASSES = 1 << 24
MAX_BETA = 20.0
DEFAULT_NODES = (0.0, 0.225, 0.45, 0.675, 1.0, 1.35, 2.0)


class CurveSpec(BaseModel):
    """Where the tail's partition curve is stored: one of nodes and temperatures.

    nodes: inverse temperatures, from 0; value, mean and deviation are stored at each and the curve answers any
        temperature. The default nodes answer T in [0.5, ∞) within 1e-3 nats and extrapolate below.
    temperatures: value and mean at these; the curve answers these only, in fewer bytes.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    nodes: tuple[float, ...] | None = None
    temperatures: tuple[float, ...] | None = None

    @field_validator("nodes")
    @classmethod
    def _from_zero_up(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is None:
            return None
        nodes = tuple(sorted(set(value)))
        if len(nodes) < 2 or nodes[0] != 0 or not nodes[-1] <= MAX_BETA:
            raise ValueError(f"got nodes {list(value)}, expected 0 and at least one number above it, up to {MAX_BETA}")
        return nodes

    @field_validator("temperatures")
    @classmethod
    def _positive_and_sorted(cls, value: tuple[float, ...] | None) -> tuple[float, ...] | None:
        if value is None:
            return None
        if not value or not all(1 / MAX_BETA <= t < float("inf") for t in value):
            raise ValueError(
                f"got {list(value)}, expected at least one temperature, each above 0: {1 / MAX_BETA:g} or more"
            )
        return tuple(sorted(set(value)))

    @model_validator(mode="before")
    @classmethod
    def _one_kind(cls, data: object) -> object:
        if isinstance(data, dict):
            given = [key for key in ("nodes", "temperatures") if data.get(key) is not None]
            if len(given) == 2:
                raise ValueError("got nodes and temperatures, expected one of them")
            if not given:
                return {**data, "nodes": DEFAULT_NODES}
        return data

    @property
    def interpolates(self) -> bool:
        return self.nodes is not None

    @property
    def betas(self) -> tuple[float, ...]:
        """Inverse temperatures of the stored columns."""
        if self.nodes is not None:
            return self.nodes
        assert self.temperatures is not None
        return tuple(1.0 / t for t in self.temperatures)

    @property
    def at_temperatures(self) -> tuple[float, ...]:
        """Temperatures of the stored columns, infinity for the node 0."""
        if self.nodes is not None:
            return tuple(1.0 / beta if beta > 0 else float("inf") for beta in self.nodes)
        assert self.temperatures is not None
        return self.temperatures

    def column(self, temperature: float) -> int | None:
        """Which stored column holds this temperature."""
        for k, beta in enumerate(self.betas):
            if abs(beta * temperature - 1.0) <= 1e-6:
                return k
        return None


class FactorSpec(BaseModel):
    """A factored tail: the shape of the whole distribution, in `rank` bytes a position.

    A language model's logits are W h + b, h the input of its output layer: the cache keeps one basis of their principal
    directions, and each position its coefficients in it. For temperatures above 1 and for divergences other than
    forward KL, where a sample is too noisy.

    rank: how many directions; "full" takes as many as h has, so that nothing is lost but the rounding.
    dtype: of a coefficient.
    calibration_positions: how many positions the directions are found from, the first of the corpus; "auto" takes 8 for
        each number in h, 4096 at least.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    rank: PositiveInt | Literal["full"] = "full"
    dtype: Literal["int8"] = "int8"
    calibration_positions: PositiveInt | Literal["auto"] = "auto"

    def positions_for(self, hidden: int) -> int:
        """How many positions to calibrate with, h of so many numbers."""
        return max(4096, 8 * hidden) if self.calibration_positions == "auto" else self.calibration_positions


class RecordSpec(BaseModel):
    """What is kept of each row of teacher logits.

    exact_top_k: how many of the largest logits are kept for certain, or "all" for a dense record.
    samples: how many of the other classes are drawn at most, each with a known inclusion probability; 0 for a
        plain top-k record.
    proposal_temperatures: the draw follows the mean of the teacher's softmax at these; each must be on the curve.
    logit_dtype: how a kept logit is stored, relative to the row's maximum. "uint16", logarithmic steps, keeps log Z
        to 1e-3; "uint8" saves 5 bytes a position and keeps it to 1e-2; not for dense records.
    tail: what a loss makes of the classes outside a record without samples: "ghost", one extra class with their
        exact mass, or "renormalise", which drops them.
    factor: store a factored tail. With samples: 0, its companion, it stands for the tail in every loss; with samples
        too, forward KL at temperatures up to 1 uses the sample and all else the factored tail.
    features: store the teacher's last hidden states as float16, for a bottleneck term: at the "positions", or, of a
        sequence classification, "pooled": their mean over the example's tokens.
    """

    model_config = ConfigDict(frozen=True, extra="forbid")

    exact_top_k: Annotated[int, Field(ge=0, le=32768)] | Literal["all"] = 8
    samples: Annotated[NonNegativeInt, Field(le=4096)] = 25
    proposal_temperatures: tuple[float, ...] = (1.0,)
    logit_dtype: Literal["uint8", "uint16", "float16", "float32"] = "uint16"
    tail: Literal["ghost", "renormalise"] = "ghost"
    curve: CurveSpec = Field(default_factory=CurveSpec)
    factor: FactorSpec | None = None
    features: Literal["pooled", "positions"] | None = None

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        values = serialize(self)
        for name in ("factor", "features"):
            if getattr(self, name) is None:
                values.pop(name, None)
        return values

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        if self.factor is not None and self.dense:
            raise ValueError("got factor with exact_top_k all, expected one of them: a dense record holds every class")
        if self.factor is not None and self.tail == "renormalise":
            raise ValueError("got tail renormalise with a factor, expected none: the factor stands for the tail")
        if self.dense:
            if self.logit_dtype == "uint8":
                raise ValueError(
                    "got logit_dtype uint8 with exact_top_k all, expected uint16, float16 or float32: "
                    "256 steps over a whole row's range are too coarse"
                )
            return self
        if self.exact_top_k == 0 and self.samples == 0:
            raise ValueError("got exact_top_k 0 and samples 0, expected at least one above 0")
        if self.samples and self.tail == "renormalise":
            raise ValueError("got tail renormalise with samples, expected samples: 0: a sample stands for the tail")
        if self.samples and not self.proposal_temperatures:
            raise ValueError("got no proposal_temperatures, expected at least one, e.g. [1.0]")
        for temperature in self.proposals:
            if not temperature > 0 or self.curve.column(temperature) is None:
                raise ValueError(
                    f"got proposal temperature {temperature:g} without a point of the curve at it, expected one: "
                    f"add {1 / temperature if temperature > 0 else 1:g} to curve.nodes or use a stored temperature"
                )
        return self

    @property
    def dense(self) -> bool:
        return self.exact_top_k == "all"

    @property
    def proposals(self) -> tuple[float, ...]:
        """The temperatures the draw follows; none where nothing is drawn."""
        return self.proposal_temperatures if self.samples and not self.dense else ()
