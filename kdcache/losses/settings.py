"""`terms`: what the loss of a training run is made of."""

import math
from typing import Any, Literal, Self

from pydantic import (
    NonNegativeFloat,
    PositiveFloat,
    PositiveInt,
    SerializerFunctionWrapHandler,
    field_validator,
    model_serializer,
    model_validator,
)

from kdcache.config.base import Config
from kdcache.errors import ConfigError
from kdcache.losses.kinds import Kind, Reduction, check_reduction, kind_parameters
from kdcache.losses.temperature import Schedule, softmax_temperature

__all__ = ["TermConfig"]

_SOFTMAX = ("temperature", "schedule", "temperature_squared")
_COMPARED = (*_SOFTMAX, "reduction", "weighting", "entropy_temperature", "weight")
_TERM_FIELDS = {
    "divergence": ("kind", "alpha", "beta", "estimator", *_COMPARED),
    "cross_entropy": (*_COMPARED, "class_weights"),
    "entropy": (*_SOFTMAX, "weight"),
    "bottleneck": ("width", "beta", "weight"),
}


class TermConfig(Config):
    """One term of the loss. What a wider student gives to classes above the cache's costs it: kdcache.losses.surplus.

    name: "divergence" compares with the teacher, "cross_entropy" with the labels, "entropy" the student's entropy with
        the teacher's, (H_s − H_t)², and "bottleneck" what a stochastic bottleneck in the student says of the teacher's
        hidden features (record.features).
    kind, alpha, beta: which divergence, with its parameters; kdcache.losses.kinds lists them.
    temperature, schedule: which softmax, of teacher and student; kdcache.losses.temperature says how the source
        article's schedule maps onto the usual one, "hinton".
    temperature_squared: times the square of the usual temperature, so that the gradient keeps its size.
    estimator: forward_kl of sampled records: "normalised" or the exactly unbiased "horvitz_thompson".
    reduction: "class_mean" is −(1/classes) Σ p log p_student, the source article's soft cross-entropy: for forward_kl,
        and for cross_entropy with the label as p.
    weighting: "entropy" weighs each position of a divergence or cross_entropy term by ½ H_t (1 + H_s / log classes),
        the entropies at entropy_temperature; kdcache.losses.entropy.
    class_weights: of cross_entropy in a classification: {label: weight}, 1 for labels that it does not name, or
        "balanced": labelled positions / (labels that occur · positions of this label), counted in the cache. They
        weigh the sum; it is divided by the supervised positions of the global batch as ever, not by the sum of their
        weights, as torch's cross_entropy does with reduction "mean". "balanced" weights are 1 on average, so that both
        agree.
    width, beta: of the bottleneck, and what a nat through it costs, 0.01 by default; kdcache.losses.bottleneck.
    """

    name: Literal["divergence", "cross_entropy", "entropy", "bottleneck"]
    kind: Kind = "forward_kl"
    alpha: float | None = None
    beta: float | None = None
    temperature: PositiveFloat = 1.0
    schedule: Schedule = "hinton"
    temperature_squared: bool = True
    estimator: Literal["normalised", "horvitz_thompson"] = "normalised"
    reduction: Reduction = "mean"
    weighting: Literal["uniform", "entropy"] = "uniform"
    entropy_temperature: PositiveFloat = 3.0
    class_weights: Literal["balanced"] | dict[str, NonNegativeFloat] | None = None
    width: PositiveInt = 64
    weight: NonNegativeFloat = 1.0

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

    @model_serializer(mode="wrap")
    def _without_what_is_not_used(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        used = {"name", *_TERM_FIELDS[self.name]}
        if self.weighting == "uniform":
            used -= {"weighting", "entropy_temperature"}
        if self.class_weights is None:
            used.discard("class_weights")
        if self.kind != "forward_kl":
            used.discard("estimator")
        return {key: value for key, value in serialize(self).items() if key in used}

    @model_validator(mode="after")
    def _consistent(self) -> Self:
        valid = _TERM_FIELDS[self.name]
        extra = sorted(self.model_fields_set - {"name", *valid})
        if extra:
            article = "an" if self.name == "entropy" else "a"
            raise ValueError(f"got {', '.join(extra)} in {article} {self.name} term, expected only {', '.join(valid)}")
        if self.kind != "forward_kl" and "estimator" in self.model_fields_set:
            raise ValueError(f"got estimator for kind {self.kind}, expected it only for forward_kl")
        if self.weighting == "uniform" and "entropy_temperature" in self.model_fields_set:
            raise ValueError("got entropy_temperature without weighting: entropy, expected both or none")
        if self.name == "bottleneck" and not 0 <= self.bottleneck_beta < math.inf:
            raise ValueError(f"got beta {self.beta:g} in a bottleneck term, expected a finite number of 0 or more")
        try:
            kind_parameters(self.kind, self.parameters)
            check_reduction(self.kind, self.reduction)
            softmax_temperature(self.temperature, self.schedule, "entropy" if self.name == "entropy" else self.kind)
            softmax_temperature(self.entropy_temperature)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self

    @property
    def parameters(self) -> dict[str, float]:
        """Those of the kind that are set."""
        given = {"alpha": self.alpha, "beta": self.beta} if self.name == "divergence" else {}
        return {name: value for name, value in given.items() if value is not None}

    @property
    def softmax_temperature(self) -> float | None:
        """The temperature of the usual schedule; None at the article's one-hot limit."""
        return softmax_temperature(self.temperature, self.schedule)

    @property
    def bottleneck_beta(self) -> float:
        return 0.01 if self.beta is None else self.beta

    @property
    def needs_teacher(self) -> bool:
        """Whether it takes more than labels."""
        return self.name != "cross_entropy" or self.weighting == "entropy"
