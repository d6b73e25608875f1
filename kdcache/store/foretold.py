"""How large a shard will be, before anything is made: bytes on disk per token, from the arrays that it has.

Lists of entries and curves compress to about half, wide rows (coefficients, features, dense logits) to four fifths.
Bytes per position foretold and found on text, 49,152 classes: default 70 and 63, RS-KD's 43 and 31, the 50 largest 130
and 158, factored of rank 64 97 and 74, full 507 and 429, dense 79,000 and 98,000: within a factor of two.
"""

import math
from collections.abc import Sequence

import numpy as np

from kdcache.store.backend import array_fields
from kdcache.targets.fields import Field, Level
from kdcache.targets.kind import RecordKind

__all__ = ["bytes_per_token"]

COMPRESSED, COMPRESSED_WIDE, WIDE = 0.5, 0.8, 64
TOKENS_OF_AN_EXAMPLE, TOKENS_OF_A_DOCUMENT = 32, 256


def bytes_per_token(
    fields: Sequence[Field], records: Sequence[RecordKind], num_classes: int, *, one_position: bool = False
) -> float:
    """Of a shard on disk.

    Args:
        fields: Its arrays.
        records: What is kept at a position.
        num_classes: Of the teacher's logits.
        one_position: Whether an example has one position, and not about one for each token.
    """
    entries = max((kind.entries_per_position(num_classes) for kind in records), default=0)
    positions = 1 / TOKENS_OF_AN_EXAMPLE if one_position else 1.0
    of_level: dict[Level, float] = {
        "example": 1 / TOKENS_OF_AN_EXAMPLE,
        "document": 1 / TOKENS_OF_A_DOCUMENT,
        "token": 1.0,
        "position": positions,
        "entry": positions * entries,
    }
    return sum(of_level[field.level] * _stored(field) for field in array_fields(fields))


def _stored(field: Field) -> float:
    """Bytes of an element."""
    numbers = math.prod(field.shape)
    return numbers * np.dtype(field.dtype).itemsize * (COMPRESSED if numbers < WIDE else COMPRESSED_WIDE)
