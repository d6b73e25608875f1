"""SoftmaxTerm: a term of the student's softmax at a temperature, against something of the teacher or of the labels.

P positions, C compared classes.
"""

from typing import TYPE_CHECKING, Literal, Self

from pydantic import PositiveFloat, model_validator

from kdcache.errors import ConfigError
from kdcache.losses.reduction import Reduction
from kdcache.losses.temperature import TemperatureSchedule, softmax_temperature
from kdcache.losses.term import Term

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.losses.reference import Form, Pair
    from kdcache.targets.record import TeacherTargets

__all__ = ["ComparedTerm", "SoftmaxTerm"]


class SoftmaxTerm(Term):
    """A term whose value and slopes are functions of log q, where q is the student's softmax.

    temperature: the temperature T of the softmax, for teacher and student alike.
    temperature_schedule: "hinton" is the usual softmax(z / T). "article" is that of the article that kdcache grew from,
        whose T counts otherwise: its T = 2 is the usual T = 1/2 (kdcache/losses/ARTICLE.md).
    temperature_squared: multiply by the square of the usual temperature, so that the gradient keeps its size.
    """

    temperature: PositiveFloat = 1.0
    temperature_schedule: TemperatureSchedule = "hinton"
    temperature_squared: bool = True

    @property
    def softmax_temperature(self) -> float | None:
        """The temperature of the usual schedule; None at the article's one-hot limit."""
        return softmax_temperature(self.temperature, self.temperature_schedule)

    @property
    def at(self) -> float:
        """The temperature of the student's softmax: 1 at the one-hot limit."""
        return self.softmax_temperature or 1.0

    @property
    def scale(self) -> float:
        return self.weight * (self.at**2 if self.temperature_squared else 1.0)

    @property
    def entropy_weight_temperature(self) -> float | None:
        """Of the entropies that weigh its positions; None where nothing does."""
        return None

    def share(self, num_classes: int) -> float:
        """What a position counts beside its plain value: 1/classes for a mean over classes."""
        return 1.0

    def form(self, targets: "TeacherTargets | None") -> "Form":
        """The form of what it is compared with. Raises ConfigError where these records cannot answer it."""
        raise NotImplementedError

    def value(self, pair: "Pair", num_classes: int) -> "Tensor":
        """[P], in a new tensor."""
        raise NotImplementedError

    def slopes(self, pair: "Pair") -> "Tensor":
        """By log q of each compared class, [P, C], in a new tensor, without `share`.

        What it says of padding is thrown away.
        """
        raise NotImplementedError

    def refused_at_the_limit(self) -> str | None:
        """What of it has no value at the one-hot limit; None where it has one."""
        return None

    @property
    def _temperature_name(self) -> str:
        return f"@{'article' if self.temperature_schedule == 'article' else ''}{self.temperature:g}"

    @model_validator(mode="after")
    def _has_a_softmax(self) -> Self:
        try:
            softmax_temperature(self.temperature, self.temperature_schedule, self.refused_at_the_limit())
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self


class ComparedTerm(SoftmaxTerm):
    """A divergence from the teacher or from the labels.

    reduction: "mean" over positions. "class_mean" also divides by the number of classes and leaves out the teacher's
        entropy, −(1/classes) Σ p log q, which is the article's soft cross-entropy; only forward_kl and cross_entropy
        have it.
    weighting: "entropy" weighs each position by ½ H_teacher (1 + H_student / log classes); "uniform" weighs all alike.
    entropy_temperature: the temperature of the entropies that weigh positions.
    """

    reduction: Reduction = "mean"
    weighting: Literal["uniform", "entropy"] = "uniform"
    entropy_temperature: PositiveFloat = 3.0

    @property
    def entropy_weight_temperature(self) -> float | None:
        return self.entropy_temperature if self.weighting == "entropy" else None

    @property
    def needs_teacher(self) -> bool:
        return self.weighting == "entropy"

    @property
    def spoken(self) -> str:
        return f"an entropy-weighted {self.name}" if self.weighting == "entropy" else super().spoken

    def share(self, num_classes: int) -> float:
        return 1 / num_classes if self.reduction == "class_mean" else 1.0

    def unused(self) -> set[str]:
        return {"weighting", "entropy_temperature"} if self.weighting == "uniform" else set()

    @property
    def _reduction_name(self) -> str:
        return "_class_mean" * (self.reduction == "class_mean")

    @property
    def _weighting_name(self) -> str:
        return f"_weighted@{self.entropy_temperature:g}" if self.weighting == "entropy" else ""

    @model_validator(mode="after")
    def _has_a_weighting(self) -> Self:
        if self.weighting == "uniform" and "entropy_temperature" in self.model_fields_set:
            raise ValueError("got entropy_temperature without weighting: entropy, expected both or none")
        try:
            softmax_temperature(self.entropy_temperature)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self
