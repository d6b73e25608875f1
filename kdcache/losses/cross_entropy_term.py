"""`{name: cross_entropy}`: the cross-entropy of the student under the labels."""

import math
from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Literal

from pydantic import NonNegativeFloat, field_validator

from kdcache.errors import ConfigError
from kdcache.losses.forward_kl import cross_entropy
from kdcache.losses.softmax_term import ComparedTerm

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.losses.reference import Form, Pair
    from kdcache.targets.record import TeacherTargets

__all__ = ["CrossEntropyTerm"]


class CrossEntropyTerm(ComparedTerm):
    """The cross-entropy of the student under the labels.

    class_weights: what each label counts in a classification: {label: weight}, with 1 for labels that are not named, or
        "balanced", which is labelled positions / (labels that occur · positions of this label), counted in the cache.
        The weighted sum is divided by the supervised positions of the global batch, not by the sum of their weights as
        torch's cross_entropy does with reduction "mean". "balanced" weights are 1 on average, so that both agree.
    """

    name: Literal["cross_entropy"] = "cross_entropy"
    class_weights: Literal["balanced"] | dict[str, NonNegativeFloat] | None = None

    @property
    def log_name(self) -> str:
        name = self.name if self.softmax_temperature == 1 else f"{self.name}{self._temperature_name}"
        weights = "" if self.class_weights is None else "_balanced"
        if isinstance(self.class_weights, dict):
            weights = "_class_weights"
        return f"{name}{self._reduction_name}{weights}{self._weighting_name}"

    @property
    def needs_labels(self) -> bool:
        return True

    @property
    def needs_class_names(self) -> bool:
        return self.class_weights is not None

    def weights_of_classes(self, names: Sequence[str], counts: Callable[[], Sequence[int]]) -> list[float] | None:
        if self.class_weights is None:
            return None
        if isinstance(self.class_weights, dict):
            unknown = [name for name in self.class_weights if name not in names]
            if unknown:
                raise ConfigError(
                    f"got class_weights of {unknown[0]}, expected some of the cache's: {', '.join(names)}"
                )
            return [self.class_weights.get(name, 1.0) for name in names]
        counts_C = counts()
        occurring = sum(count > 0 for count in counts_C)
        return [sum(counts_C) / (occurring * count) if count else 1.0 for count in counts_C]

    def form(self, targets: "TeacherTargets | None") -> "Form":
        return "labels"

    def value(self, pair: "Pair", num_classes: int) -> "Tensor":
        value_P = cross_entropy(pair)
        return value_P / num_classes if self.reduction == "class_mean" else value_P

    def slopes(self, pair: "Pair") -> "Tensor":
        return -pair.p_PC

    def unused(self) -> set[str]:
        return super().unused() | ({"class_weights"} if self.class_weights is None else set())

    @field_validator("class_weights", mode="before")
    @classmethod
    def _labels_are_strings(cls, value: object) -> object:
        """YAML reads labels such as 0 and true as other types; a corpus' are these words."""
        if value in ("balanced", None):
            return value
        if not isinstance(value, dict):
            raise ValueError(f"got {value!r}, expected a mapping of labels to weights, or balanced")
        for key, weight in value.items():
            if not isinstance(weight, int | float) or not 0 <= weight < math.inf:
                raise ValueError(f"got the weight {weight!r} of label {key}, expected a number of 0 or more")
        return {str(key).lower() if isinstance(key, bool) else str(key): weight for key, weight in value.items()}
