"""Divergence: what a kind of divergence is, and Range: which numbers a parameter of it may be. No torch at import.

A kind is a frozen class of settings in a file of its own. It says what each compared class adds to the divergence and
its slope there; the frame masks both where a row is padded, sums them, and turns the slopes into a gradient
(softmax.py). So no formula meets the padding: what it makes of p = 0 beside log p = 0 is thrown away.

P positions, C compared classes.
"""

from collections.abc import Callable, Mapping
from typing import TYPE_CHECKING, Any, ClassVar

from pydantic import AfterValidator, ValidationError, ValidationInfo, model_validator

from kdcache.config.base import Config
from kdcache.errors import ConfigError
from kdcache.losses.registry import DIVERGENCES
from kdcache.near import did_you_mean

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.losses.reference import Pair

__all__ = ["Divergence", "Range", "divergence_of_kind"]


class Range(AfterValidator):
    """Metadata of a parameter: `beta: Annotated[float, Range(lambda b: 0 < b < 1, "0 < beta < 1")] = 0.5`."""

    expected: str

    def __init__(self, holds: Callable[[float], bool], expected: str) -> None:
        def check(value: float, info: ValidationInfo) -> float:
            if not holds(value):
                raise ValueError(f"got {info.field_name} {value:g} for kind {info.data['kind']}, expected {expected}")
            return value

        super().__init__(check)
        object.__setattr__(self, "expected", expected)


class Divergence(Config):
    """A kind with its parameters, which are the fields of its class.

    kind: its name, which a subclass declares as `kind: Literal["mine"] = "mine"`.
    weighable: it is linear in p up to what the teacher alone decides, so that it can use the weights of a sample, which
        know no probability of single classes. is_cross_entropy: it is the cross-entropy less the teacher's entropy, so
        that it has a one-hot limit and a mean over classes. A weighable kind adds up `of_sum` itself where the pair's
        reference has a `negative_entropy_P`.
    """

    kind: str
    weighable: ClassVar[bool] = False
    is_cross_entropy: ClassVar[bool] = False

    @property
    def cannot_merge(self) -> str | None:
        """None where merging classes keeps its meaning, so that it has a coarse form; else when not, in words."""
        return None

    def summands(self, pair: "Pair") -> "Tensor":
        """What each compared class adds, [P, C], nats. Padding may be anything but is never counted."""
        raise NotImplementedError

    def slopes(self, pair: "Pair") -> "Tensor":
        """The derivative of the sum by log q of each compared class with the others held, a new tensor [P, C].

        Up to a multiple of q where the classes are a whole partition: the gradient by a softmax's logits,
        slope_j − q_j · Σ slopes, does not feel it. Padding may be anything.
        """
        raise NotImplementedError

    def of_sum(self, sum_P: "Tensor", pair: "Pair") -> "Tensor":
        """The divergence, [P], of the sum of the summands: for what is added or divided once for a position."""
        return sum_P

    def value(self, pair: "Pair") -> "Tensor":
        """[P], nats."""
        return self.of_sum(pair.masked(self.summands(pair)).sum(-1), pair)

    @classmethod
    def parameters(cls) -> tuple[str, ...]:
        return tuple(name for name in cls.model_fields if name != "kind")

    @model_validator(mode="before")
    @classmethod
    def _parameters_are_its_own(cls, data: Any) -> Any:
        if not isinstance(data, dict):
            return data
        own, kind = cls.parameters(), cls.model_fields["kind"].default
        for name in data.keys() - {"kind", *own}:
            expected = f"only {' and '.join(own)}" if own else "none: this kind has no parameter"
            raise ValueError(f"got {name} for kind {kind}, expected {expected}{did_you_mean(name, own)}")
        for name in own:
            field = cls.model_fields[name]
            if field.is_required() and data.get(name) is None:
                ranges = [one.expected for one in field.metadata if isinstance(one, Range)]
                raise ValueError(
                    f"got kind {kind} without {name}, expected {(*ranges, 'a number')[0]}, e.g. {name}: 0.5"
                )
        return data


def divergence_of_kind(kind: str, parameters: Mapping[str, float]) -> Divergence:
    """Raises ConfigError for an unknown kind or parameter, or one out of range."""
    try:
        return DIVERGENCES[kind].model_validate(dict(parameters))
    except ValidationError as error:
        raise ConfigError(first_fault(error)) from None


def first_fault(error: ValidationError) -> str:
    """The first fault of a divergence's parameters in one line; those of Range and of names say it all themselves."""
    fault = error.errors()[0]
    message = fault["msg"].removeprefix("Value error, ")
    where = ".".join(str(part) for part in fault["loc"])
    return message if fault["type"] == "value_error" or not where else f"{where}: {message}"
