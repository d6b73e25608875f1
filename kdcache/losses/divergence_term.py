"""`{name: divergence, kind: …}`: a divergence of the student's distribution from the teacher's.

The divergence's own parameters stand beside the term's settings, and its own class reads them.
"""

from typing import TYPE_CHECKING, Annotated, Any, Literal, Self

from pydantic import model_validator

from kdcache.config.chosen import Chosen
from kdcache.errors import ConfigError
from kdcache.losses.divergence import Divergence
from kdcache.losses.forward_kl import ForwardKL, cross_entropy
from kdcache.losses.reduction import check_reduction
from kdcache.losses.registry import DIVERGENCES
from kdcache.losses.softmax_term import ComparedTerm
from kdcache.near import nearest

if TYPE_CHECKING:
    from torch import Tensor

    from kdcache.losses.reference import Form, Pair
    from kdcache.targets.record import TeacherTargets

__all__ = ["DivergenceTerm"]


class DivergenceTerm(ComparedTerm):
    """A divergence of the student's distribution from the teacher's.

    kind: which divergence. Its parameters, such as beta of jsd, stand beside it as settings of the term.
    estimator: how forward_kl uses a sampled record: "normalised" has less noise, "horvitz_thompson" is exactly unbiased
        (kdcache/targets/RECORDS.md).
    """

    name: Literal["divergence"] = "divergence"
    kind: Annotated[Divergence, Chosen(DIVERGENCES, "kind")] = ForwardKL()
    estimator: Literal["normalised", "horvitz_thompson"] = "normalised"

    @property
    def log_name(self) -> str:
        given = self.kind.model_dump(exclude_unset=True, exclude={"kind"}).values()
        kind = "_".join([self.kind.kind, *(f"{one:g}" if isinstance(one, int | float) else str(one) for one in given)])
        estimator = "_horvitz_thompson" * (self.estimator == "horvitz_thompson")
        return f"{kind}{self._temperature_name}{self._reduction_name}{estimator}{self._weighting_name}"

    @property
    def needs_teacher(self) -> bool:
        return True

    def teacher_temperature(self) -> float | None:
        return self.softmax_temperature

    def uses_sample(self, targets: "TeacherTargets") -> bool:
        return targets.draws and self.kind.weighable

    def form(self, targets: "TeacherTargets | None") -> "Form":
        from kdcache.losses.reference import form_of

        assert targets is not None
        return form_of(targets, self.kind, self.estimator, self.softmax_temperature)

    def value(self, pair: "Pair", num_classes: int) -> "Tensor":
        return cross_entropy(pair) / num_classes if self.reduction == "class_mean" else self.kind.value(pair)

    def slopes(self, pair: "Pair") -> "Tensor":
        return self.kind.slopes(pair)

    def refused_at_the_limit(self) -> str | None:
        return None if self.kind.is_cross_entropy else self.kind.kind

    def unused(self) -> set[str]:
        return super().unused() | (set() if self.kind.weighable else {"estimator"})

    def written(self, fields: dict[str, Any]) -> dict[str, Any]:
        parameters = self.kind.model_dump(exclude_unset=True, exclude={"kind"})
        return super().written({"name": self.name, **fields, "kind": self.kind.kind} | parameters)

    @classmethod
    def keys(cls, data: dict[str, Any]) -> tuple[str, ...]:
        """With the parameters of its kind, or of all kinds where it has none."""
        own, kind = super().keys(data), data.get("kind")
        kinds = (type(kind),) if isinstance(kind, Divergence) else tuple(DIVERGENCES[name] for name in DIVERGENCES)
        parameters = dict.fromkeys(name for each in kinds for name in each.parameters())
        return tuple(dict.fromkeys(("kind", *parameters, *own)))

    @model_validator(mode="before")
    @classmethod
    def _kind_and_its_parameters(cls, data: Any) -> Any:
        """Takes what is a parameter of any kind, or nearly one of its own, to the kind's own class."""
        if not isinstance(data, dict) or isinstance(data.get("kind"), Divergence):
            return data
        if "kind" not in data and data.keys() <= cls.model_fields.keys():
            return data
        kind = data.get("kind", "forward_kl")
        if kind not in list(DIVERGENCES):
            try:
                DIVERGENCES[str(kind)]
            except ConfigError as error:
                raise ValueError(str(error)) from None
        own, anyones = DIVERGENCES[kind].parameters(), cls.keys({})
        others = [key for key in data if key not in cls.model_fields]
        given = {key: data[key] for key in others if key in anyones or nearest(key, own)}
        rest = {key: value for key, value in data.items() if key not in given}
        return rest | {"kind": DIVERGENCES[kind].model_validate(given)}

    @model_validator(mode="after")
    def _goes_with_its_kind(self) -> Self:
        if not self.kind.weighable and "estimator" in self.model_fields_set:
            raise ValueError(f"got estimator for kind {self.kind.kind}, expected it only for forward_kl")
        try:
            check_reduction(self.kind, self.reduction)
        except ConfigError as error:
            raise ValueError(str(error)) from None
        return self
