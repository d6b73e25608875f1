"""Settings that several tasks share: names of classes, and what the corpus calls them."""

from typing import Annotated

from pydantic import AfterValidator, Field

from kdcache.config.base import Config, Name

__all__ = ["ClassSettings"]


def _distinct_labels(labels: tuple[str, ...] | None) -> tuple[str, ...] | None:
    if labels is not None and (len(labels) < 2 or len(set(labels)) < len(labels)):
        raise ValueError(f"got labels {list(labels)}, expected at least two, all different")
    return labels


class ClassSettings(Config):
    """The classes of a classification.

    labels: the names of the classes, in the order of their ids. By default they are those of the teacher; without a
        teacher they are those that the corpus has, sorted.
    label_map: from labels of the corpus to names of classes, such as {pos: positive, 0: negative}. A label that is
        itself the name of a class needs no entry.
    rest_class: the class of every label that is neither in label_map nor a class. Without it such a label is an error.
    """

    labels: Annotated[tuple[str, ...] | None, AfterValidator(_distinct_labels)] = None
    label_map: Annotated[dict[Name, Name], Field(min_length=1)] | None = None
    rest_class: Name | None = None
