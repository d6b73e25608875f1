"""The arrays of a shard and how they nest: the schema that both storage backends and the reader follow.

Ragged data is flat arrays plus counts. Every array belongs to a level; a level's counts, stored on its parent,
say how many of its elements each parent element owns:

    example                                 continues
            ├─ token      token_counts      tokens, token_types
            ├─ document   document_counts   document_lengths (tokens; sum to the example's tokens)
            └─ position   position_counts   positions, labels, label_logits, features, the record's per-position arrays
                 └─ entry entry_counts      ids, logits

The basis of a factored tail is a file of its own with a row for each class, of level class: it has no counts.
"""

from collections.abc import Sequence
from dataclasses import dataclass
from typing import Literal

import numpy as np

from kdcache.targets.logit_codec import octave_steps
from kdcache.targets.spec import RecordSpec

__all__ = [
    "COUNTS",
    "NO_LABEL",
    "PARENT",
    "Field",
    "Level",
    "class_dtype",
    "levels_of",
    "record_fields",
    "with_coefficients",
]

NO_LABEL = -100
"""The label of a position whose label is not known."""

Level = Literal["example", "token", "document", "position", "entry", "class"]

PARENT: dict[Level, Level] = {
    "token": "example",
    "document": "example",
    "position": "example",
    "entry": "position",
}
COUNTS: dict[Level, str] = {
    "token": "token_counts",
    "document": "document_counts",
    "position": "position_counts",
    "entry": "entry_counts",
}


@dataclass(frozen=True)
class Field:
    """One array of a shard: shape (elements of `level`, *shape).

    steps_per_octave: of certain entries and of the others, where the values are logarithmic steps (logit_codec.py); the
    shard says so itself, for readers without kdcache.
    """

    name: str
    level: Level
    dtype: str
    shape: tuple[int, ...] = ()
    steps_per_octave: tuple[int, int] | None = None


def levels_of(fields: Sequence[Field]) -> list[Level]:
    """The levels below example that these fields use, parents before children."""
    used = {field.level for field in fields}
    if "entry" in used:
        used.add("position")
    return [level for level in PARENT if level in used]


def class_dtype(num_classes: int) -> str:
    """Smallest unsigned dtype that holds every class id below num_classes."""
    return "uint16" if num_classes <= 1 << 16 else "uint32"


def record_fields(spec: RecordSpec, num_classes: int, rank: int | None = None) -> list[Field]:
    """The arrays of one record, in the order they are stored. rank: how many coefficients, with a factor."""
    fields = [Field("maximum", "position", "float32")]
    if spec.dense:
        return [*fields, Field("logits", "position", spec.logit_dtype, (num_classes,), octave_steps(spec))]
    if spec.logit_dtype == "uint8":
        fields.append(Field("span", "position", "float16"))
    betas = spec.curve.betas
    fields.append(Field("num_certain", "position", "uint16"))
    fields.append(Field("tail_value", "position", "uint16", (len(betas),)))
    fields.append(Field("tail_mean", "position", "uint16", (len(betas),)))
    if spec.curve.interpolates:
        fields.append(Field("tail_deviation", "position", "uint16", (len(betas),)))
    fields.append(Field("ids", "entry", class_dtype(num_classes)))
    fields.append(Field("logits", "entry", spec.logit_dtype, steps_per_octave=octave_steps(spec)))
    return fields if rank is None else with_coefficients(fields, rank)


def with_coefficients(fields: Sequence[Field], rank: int) -> list[Field]:
    """The arrays of records to which a factor is added: before their entries, a row of codes a position."""
    at = next(i for i, field in enumerate(fields) if field.level == "entry")
    return [*fields[:at], Field("coefficients", "position", "uint8", (rank,)), *fields[at:]]


def empty_arrays(fields: Sequence[Field]) -> dict[str, np.ndarray]:
    """A shard of no examples: every array and every counts array with length 0."""
    arrays = {f.name: np.zeros((0, *f.shape), f.dtype) for f in fields}
    return arrays | {COUNTS[level]: np.zeros(0, np.uint32) for level in levels_of(fields)}
