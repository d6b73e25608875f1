"""The records of a cache: at most one distribution, and other kinds beside it. No torch here."""

from collections.abc import Sequence
from typing import Annotated, Any

from pydantic import AfterValidator, BeforeValidator, TypeAdapter, ValidationError

from kdcache.config.chosen import Chosen
from kdcache.errors import ConfigError
from kdcache.targets.fields import Field
from kdcache.targets.kind import RecordKind
from kdcache.targets.registry import RECORDS

__all__ = ["Records", "calibrated_of", "distribution_of", "features_at", "record_fields", "record_kinds"]


def _listed(data: Any) -> Any:
    """One kind alone stands for a list of it."""
    return (data,) if isinstance(data, dict | RecordKind) else () if data is None else data


def _fit_together(kinds: tuple[RecordKind, ...]) -> tuple[RecordKind, ...]:
    distributions = [kind.kind for kind in kinds if kind.distribution]
    if len(distributions) > 1:
        raise ValueError(
            f"got records {' and '.join(distributions)}, expected one of them: a cache keeps one distribution for each "
            "position"
        )
    names = [field.name for kind in kinds for field in kind.fields(2, width=1, rank=1)]
    if len(set(names)) < len(names):
        twice = next(name for name in names if names.count(name) > 1)
        raise ValueError(
            f"got two records with a field {twice} ({', '.join(kind.kind for kind in kinds)}), expected different names"
        )
    return kinds


Records = Annotated[
    tuple[Annotated[RecordKind, Chosen(RECORDS, "kind", default="sampled")], ...],
    BeforeValidator(_listed),
    AfterValidator(_fit_together),
]
"""A setting: one kind, or a list of several."""

_ADAPTER: TypeAdapter[tuple[RecordKind, ...]] = TypeAdapter(Records)


def record_kinds(given: Any) -> tuple[RecordKind, ...]:
    """The kinds that settings name: a mapping such as {"kind": "dense"}, a kind, a list of these, or None for none.

    Raises ConfigError for settings that are not right.
    """
    try:
        return _ADAPTER.validate_python(given)
    except ValidationError as error:
        fault = error.errors()[0]
        raise ConfigError(f"record: {fault['msg'].removeprefix('Value error, ')}") from None


def distribution_of(records: Sequence[RecordKind]) -> RecordKind | None:
    """The one that is the teacher's distribution."""
    return next((kind for kind in records if kind.distribution), None)


def calibrated_of(records: Sequence[RecordKind]) -> RecordKind | None:
    """The one that needs a basis for the whole cache."""
    return next((kind for kind in records if kind.calibrated), None)


def features_at(records: Sequence[RecordKind]) -> Any:
    """Where the teacher's features are taken, "positions" or "pooled"; None where none are stored."""
    return next((kind.features_at for kind in records if kind.features_at is not None), None)


def record_fields(
    records: Sequence[RecordKind], num_classes: int, *, width: int | None = None, rank: int | None = None
) -> list[Field]:
    """The arrays of all records, in the order they are stored. width: of features. rank: of a basis."""
    return [field for kind in records for field in kind.fields(num_classes, width=width, rank=rank)]
