"""CurveSpec: where the partition curve of a tail is stored. No torch here, so that a manifest loads in milliseconds."""

from pydantic import BaseModel, ConfigDict, field_validator, model_validator

__all__ = ["DEFAULT_NODES", "MAX_CLASSES", "CurveSpec"]

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
