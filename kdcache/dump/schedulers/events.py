"""What a worker tells, in the order in which it happens."""

from dataclasses import dataclass

__all__ = ["Begun", "Committed", "Computed", "Ended", "Event", "Said", "Started", "Wants"]


@dataclass(frozen=True)
class Started:
    """place: "process 4711 on node7"."""

    place: str


@dataclass(frozen=True)
class Said:
    """A line. result: whether it belongs to the command's result."""

    text: str
    result: bool


@dataclass(frozen=True)
class Begun:
    """Its teacher is loaded. todo: units that do not stand, of so many in all."""

    todo: list[int]
    in_all: int


@dataclass(frozen=True)
class Wants:
    """It has room for one more unit."""


@dataclass(frozen=True)
class Computed:
    """Its teacher has read so many more tokens."""

    tokens: int


@dataclass(frozen=True)
class Committed:
    """A shard stands."""

    unit: int


@dataclass(frozen=True)
class Ended:
    """It does no more. error: why, unless it did all that it was told to. trace: of an error that nobody foresaw."""

    error: Exception | None = None
    trace: str | None = None


Event = Started | Said | Begun | Wants | Computed | Committed | Ended
