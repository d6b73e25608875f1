"""Which arrays a task's shards hold."""

from collections.abc import Mapping, Sequence
from typing import TYPE_CHECKING, Any

from pydantic import ValidationError

from kdcache.errors import CacheError, ConfigError
from kdcache.store.manifest import first_fault
from kdcache.targets.fields import Field, class_dtype
from kdcache.targets.kind import RecordKind
from kdcache.targets.records import record_fields
from kdcache.tasks.registry import task_of

if TYPE_CHECKING:
    from kdcache.tasks import Task

__all__ = ["check_task", "task_fields"]


def task_fields(
    task: "Task",
    vocab_size: int,
    num_classes: int,
    records: Sequence[RecordKind] = (),
    *,
    features: int | None = None,
    types: bool = False,
    rank: int | None = None,
) -> tuple[Field, ...]:
    """The arrays of every shard, in the order they are stored.

    Args:
        task: whose labels they hold.
        vocab_size: of the tokens.
        num_classes: columns of the logits.
        records: what is kept of the teacher; nothing in a label-only cache. What comes with a basis is added with it.
        rank: of the basis, once there is one.
        features: width of the teacher's features, where a record keeps them.
        types: whether tokens have types.
    """
    fields = [
        Field("tokens", "token", class_dtype(vocab_size), shuffle="none"),
        *([Field("token_types", "token", "uint8")] if types else []),
        Field("document_lengths", "document", "uint32"),
        Field("positions", "position", "uint32"),
    ]
    if labels := task.label_fields(num_classes):
        fields += [*labels, Field("continues", "example", "uint8")]
    return (*fields, *record_fields(records, num_classes, width=features, rank=rank))


def check_task(settings: Mapping[str, Any]) -> "Task":
    """The task of some settings. Raises CacheError for an unknown task, and for settings that are not its own."""
    try:
        return task_of(settings)
    except ConfigError as error:
        raise CacheError(str(error)) from None
    except ValidationError as error:
        raise CacheError(f"got task {dict(settings)}: {first_fault(error)}") from None
