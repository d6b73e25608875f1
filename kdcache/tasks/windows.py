"""Long texts of an encoder: the special tokens around a text, and overlapping windows of what lies between."""

from dataclasses import dataclass
from typing import Any, Self

import numpy as np

__all__ = ["OVERLAP", "Surroundings", "window_starts"]

OVERLAP = 4
"""Windows overlap by one part in so many."""


@dataclass(frozen=True)
class Surroundings:
    """The special tokens before and after a text, and the token types of these and of the text, where there are any."""

    prefix: np.ndarray
    suffix: np.ndarray
    types: tuple[np.ndarray, int, np.ndarray] | None

    @classmethod
    def of(cls, tokenizer: Any) -> Self:
        bare, encoded = tokenizer("a", add_special_tokens=False)["input_ids"], tokenizer("a")
        full = encoded["input_ids"]
        at = next((i for i in range(len(full) - len(bare) + 1) if full[i : i + len(bare)] == bare), 0)
        end = at + len(bare)
        given, types = encoded.get("token_type_ids"), None
        if given is not None:
            types = np.asarray(given[:at], np.int64), given[at] if bare else 0, np.asarray(given[end:], np.int64)
        return cls(np.asarray(full[:at], np.int64), np.asarray(full[end:], np.int64), types)

    def __len__(self) -> int:
        return len(self.prefix) + len(self.suffix)

    def around(self, body: np.ndarray) -> np.ndarray:
        return np.concatenate([self.prefix, body, self.suffix])

    def types_around(self, length: int) -> np.ndarray | None:
        if self.types is None:
            return None
        before, inside, after = self.types
        return np.concatenate([before, np.full(length, inside), after])


def window_starts(length: int, room: int) -> np.ndarray:
    """Where windows of `room` sub-tokens begin, so that they cover `length` and overlap by a quarter."""
    if length <= room:
        return np.zeros(1, np.int64)
    stride = room - room // OVERLAP
    count = 1 + -(-(length - room) // stride)
    return np.arange(count) * stride
