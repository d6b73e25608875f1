"""Which arrays a task's shards hold."""

from kdcache.targets.fields import Field, class_dtype, record_fields
from kdcache.targets.spec import RecordSpec

__all__ = ["causal_lm_fields"]


def causal_lm_fields(vocab_size: int, num_classes: int, record: RecordSpec | None) -> tuple[Field, ...]:
    """A causal LM stores no labels: they are the next tokens. record: None for a label-only cache."""
    fields = [
        Field("tokens", "token", class_dtype(vocab_size)),
        Field("document_lengths", "document", "uint32"),
        Field("positions", "position", "uint32"),
    ]
    if record is not None:
        fields += [Field("label_logits", "position", "float16"), *record_fields(record, num_classes)]
    return tuple(fields)
