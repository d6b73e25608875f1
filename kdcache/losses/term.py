"""Term: what every loss term is. No torch at import, so that a config is checked in milliseconds.

A term is a frozen class of settings in a file of its own, chosen by its `name`. There are three families, which say
what a term is computed from:

  SoftmaxTerm   softmax_term.py   the student's softmax against something of the teacher or of the labels
  OutputTerm    output_term.py    the student's raw outputs against values, without a softmax
  BesideTerm    beside_term.py    anything else of the student's forward pass, with a module of its own if it wants one
"""

from collections.abc import Callable, Sequence
from typing import TYPE_CHECKING, Annotated, Any

from pydantic import NonNegativeFloat, SerializerFunctionWrapHandler, model_serializer, model_validator

from kdcache.config.base import Config
from kdcache.config.chosen import Chosen
from kdcache.losses.registry import TERMS

if TYPE_CHECKING:
    from torch import nn

__all__ = ["AnyTerm", "Term", "make_term"]


class Term(Config):
    """One term of the loss.

    name: which term; a subclass declares it as `name: Literal["mine"] = "mine"`.
    weight: what the term counts in the loss.
    """

    name: str
    weight: NonNegativeFloat = 1.0

    @property
    def scale(self) -> float:
        """What the term's sum counts in the total."""
        return self.weight

    @property
    def log_name(self) -> str:
        """Its name in logs, with the settings that tell it from others of its kind."""
        return self.name

    @property
    def spoken(self) -> str:
        """What it is called in messages, with its article."""
        return f"{'an' if self.name[0] in 'aeiou' else 'a'} {self.name}"

    @property
    def needs_teacher(self) -> bool:
        """Whether it takes records of a teacher."""
        return False

    @property
    def needs_labels(self) -> bool:
        """Whether it learns from labels, so that a cache without any teaches it nothing."""
        return False

    @property
    def needs_features(self) -> bool:
        """Whether it takes the teacher's hidden features."""
        return False

    def make_module(self, student_width: int, feature_width: int | None) -> "nn.Module | None":
        """What it trains beside the student, from torch's own generator; None for nothing (beside_term.py).

        Args:
            student_width: How many numbers the student's head is fed with.
            feature_width: How many numbers the teacher's features have; None where the cache holds none.
        """
        return None

    @property
    def trains_a_module(self) -> bool:
        """Whether its class makes a module, to be trained beside the student."""
        return type(self).make_module is not Term.make_module

    @property
    def needs_class_names(self) -> bool:
        """Whether it speaks of classes by name, so that the cache must be one of a classification."""
        return False

    def weights_of_classes(self, names: Sequence[str], counts: Callable[[], Sequence[int]]) -> list[float] | None:
        """A weight for each class, None for none. counts: gives the positions of each label, at some cost.

        Raises ConfigError for a name that is none of these.
        """
        return None

    def teacher_temperature(self) -> float | None:
        """At which temperature it is compared with the teacher's distribution; None where it is not."""
        return None

    def uses_sample(self, targets: Any) -> bool:
        """Whether such records answer it by the weights of a sample."""
        return False

    @classmethod
    def keys(cls, data: dict[str, Any]) -> tuple[str, ...]:
        """The settings that a term such as `data` may have, without its name."""
        return (*(name for name in cls.model_fields if name not in ("name", "weight")), "weight")

    def unused(self) -> set[str]:
        """Fields that have no effect as the others are, and are not written."""
        return set()

    def written(self, fields: dict[str, Any]) -> dict[str, Any]:
        """As a settings file has it. fields: all, as they are serialized."""
        unused = self.unused()
        return {key: value for key, value in fields.items() if key not in unused}

    @model_serializer(mode="wrap")
    def _written(self, serialize: SerializerFunctionWrapHandler) -> dict[str, Any]:
        return self.written(serialize(self))

    @model_validator(mode="before")
    @classmethod
    def _settings_are_its_own(cls, data: Any) -> Any:
        """Other faulty keys are left to what knows where they stand in the file."""
        if not isinstance(data, dict):
            return data
        own = cls.keys(data)
        foreign = [
            key for key in data if key not in ("name", *own) and any(key in TERMS[name].keys({}) for name in TERMS)
        ]
        if foreign:
            name = cls.model_fields["name"].default
            article = "an" if name[0] in "aeiou" else "a"
            raise ValueError(
                f"got {', '.join(sorted(foreign))} in {article} {name} term, expected only {', '.join(own)}"
            )
        return data


AnyTerm = Annotated[Term, Chosen(TERMS, "name")]
"""A term by its name, as a settings file has it."""


def make_term(name: str, **settings: Any) -> Term:
    """Make a loss term, as `terms` of a settings file names it.

    Args:
        name: Which term, such as "divergence" or "cross_entropy", or one that was registered.
        settings: Its settings, such as temperature=2.0; configs/SETTINGS.md has them all.

    Returns:
        The term, for `LossTerms`.

    Raises:
        ConfigError: No term has this name.
        ValueError: A setting is unknown or out of range.
    """
    return TERMS[name].model_validate({"name": name, **settings})
