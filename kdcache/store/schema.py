"""Which arrays a task's shards hold, and which tasks a cache may be of."""

from collections.abc import Mapping
from typing import Any

from kdcache.errors import CacheError
from kdcache.targets.fields import Field, class_dtype, record_fields
from kdcache.targets.spec import RecordSpec

__all__ = ["ATTENTION", "check_task", "task_fields"]

ATTENTION = {
    "causal_lm": ("document", "causal"),
    "sequence_classification": ("full",),
    "token_classification": ("full",),
}
"""The tasks, and who sees whom in an example of theirs; the first is the default."""


def task_fields(
    name: str,
    vocab_size: int,
    num_classes: int,
    record: RecordSpec | None,
    *,
    features: int | None = None,
    types: bool = False,
) -> tuple[Field, ...]:
    """A causal LM stores no labels: they are the next tokens. record: None for a label-only cache.

    features: width of the teacher's features, where the record has them. types: whether tokens have types. Coefficients
    come with their basis.
    """
    fields = [
        Field("tokens", "token", class_dtype(vocab_size)),
        *([Field("token_types", "token", "uint8")] if types else []),
        Field("document_lengths", "document", "uint32"),
        Field("positions", "position", "uint32"),
    ]
    if name != "causal_lm":
        fields.append(Field("labels", "position", "int16" if num_classes < 1 << 15 else "int32"))
        fields.append(Field("continues", "example", "uint8"))
    if record is None:
        return tuple(fields)
    if not record.dense:
        fields.append(Field("label_logits", "position", "float16"))
    if record.features is not None:
        assert features is not None
        fields.append(Field("features", "position", "float16", (features,)))
    return (*fields, *record_fields(record, num_classes))


def check_task(task: Mapping[str, Any]) -> dict[str, Any]:
    """The task's settings with their defaults. Raises CacheError for an unknown task or attention."""
    settings = {"name": "causal_lm", **task}
    if settings["name"] not in ATTENTION:
        raise CacheError(f"got task {settings['name']}, expected one of {', '.join(ATTENTION)}")
    allowed = ATTENTION[settings["name"]]
    settings.setdefault("attention", allowed[0])
    if settings["attention"] not in allowed:
        raise CacheError(f"got task {settings}, expected attention {' or '.join(allowed)}")
    return settings
