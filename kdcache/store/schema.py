"""Which arrays a task's shards hold."""

from collections.abc import Mapping
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kdcache.errors import CacheError, ConfigError
from kdcache.store.manifest import first_fault
from kdcache.targets.fields import Field, class_dtype, record_fields
from kdcache.targets.spec import RecordSpec
from kdcache.tasks.registry import task_of

if TYPE_CHECKING:
    from kdcache.tasks import Task

__all__ = ["check_task", "task_fields"]


def task_fields(
    task: "Task",
    vocab_size: int,
    num_classes: int,
    record: RecordSpec | None,
    *,
    features: int | None = None,
    types: bool = False,
) -> tuple[Field, ...]:
    """The arrays of every shard, in the order they are stored.

    record: None for a label-only cache. features: width of the teacher's features, where the record has them. types:
    whether tokens have types. Coefficients come with their basis.
    """
    fields = [
        Field("tokens", "token", class_dtype(vocab_size)),
        *([Field("token_types", "token", "uint8")] if types else []),
        Field("document_lengths", "document", "uint32"),
        Field("positions", "position", "uint32"),
    ]
    if labels := task.label_fields(num_classes):
        fields += [*labels, Field("continues", "example", "uint8")]
    if record is None:
        return tuple(fields)
    if not record.dense:
        fields.append(Field("label_logits", "position", "float16"))
    if record.features is not None:
        assert features is not None
        fields.append(Field("features", "position", "float16", (features,)))
    return (*fields, *record_fields(record, num_classes))


def check_task(settings: Mapping[str, Any]) -> "Task":
    """The task of some settings. Raises CacheError for an unknown task, and for settings that are not its own."""
    try:
        return task_of(settings)
    except ConfigError as error:
        raise CacheError(str(error)) from None
    except ValidationError as error:
        raise CacheError(f"got task {dict(settings)}: {first_fault(error)}") from None
