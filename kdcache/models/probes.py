"""Rows to try a model out with, made of a run's own first examples.

Their lengths are the most that an example may have, five eighths of it and one eighth, these two odd, since models that
pool tokens or cut them into blocks treat round lengths well. An example gets another length
by leaving out or repeating what lies between its special tokens, so that a text that ends in </s> still does.
"""

from collections.abc import Sequence
from dataclasses import dataclass, replace

import numpy as np

from kdcache.models.inputs import Attention
from kdcache.tasks.example import Example

__all__ = ["Probes", "make_probes", "resized"]

COMPARED = 32
"""Positions of a document that are compared: half of them its first, half its last."""


@dataclass(frozen=True)
class Probes:
    """rows: of unequal lengths. equal: two of one length. counts: positions of each document of the rows. packed:
    whether the first row holds three documents that do not see each other.
    """

    rows: list[Example]
    equal: list[Example]
    counts: list[int]
    attention: Attention
    packed: bool


def make_probes(examples: Sequence[Example], *, longest: int, rows: int, packed: bool, attention: Attention) -> Probes:
    """rows: how many of them at most, two at least if not packed."""
    special = _special(examples) if attention == "full" else np.zeros(0, np.int64)
    first, second, third = (examples[i % len(examples)] for i in range(3))
    lengths = [max(2, longest * 5 // 8 | 1), longest, max(2, longest // 8 | 1)]
    mid, long, short = (
        _compared(resized(example, length, special))
        for example, length in zip((first, second, third), lengths, strict=True)
    )
    made = [mid, long, short]
    if packed:
        last = max(1, longest - lengths[0] - lengths[2])
        other = _compared(resized(second, last, special))
        made = [_joined([mid, short, other]), long, short]
    other = _compared(resized(first, longest, special))
    kept = made[: max(rows, 1)]
    counts = [
        int(((row.positions >= end - size) & (row.positions < end)).sum())
        for row in kept
        for size, end in zip(*_pieces(row, attention), strict=True)
    ]
    return Probes(kept, [long, other], counts, attention, packed)


def _pieces(row: Example, attention: Attention) -> tuple[np.ndarray, np.ndarray]:
    """(sizes, ends) of what is compared as one: the documents where they do not see each other, else the row."""
    sizes = row.documents if attention == "document" else np.array([len(row.tokens)])
    return sizes, np.cumsum(sizes)


def _special(examples: Sequence[Example]) -> np.ndarray:
    """Tokens that a text of this tokenizer begins or ends with."""
    return np.unique([token for example in examples for token in (example.tokens[0], example.tokens[-1])])


def resized(example: Example, length: int, special: np.ndarray) -> Example:
    """The example with so many tokens, where its own allow it: its longest run of tokens that are not special gets
    shorter, but keeps one, or is repeated. The example is one document then.
    """
    start, stop = _longest_run(~np.isin(example.tokens, special))
    wanted = max(1, stop - start + length - len(example.tokens))

    def with_run(values: np.ndarray) -> np.ndarray:
        return np.concatenate([values[:start], np.resize(values[start:stop], wanted), values[stop:]])

    tokens = with_run(example.tokens)
    types = None if example.types is None else with_run(example.types)
    return Example(tokens, example.positions, example.labels, np.array([len(tokens)]), types=types)


def _longest_run(flags: np.ndarray) -> tuple[int, int]:
    """(start, stop) of the longest run that is true; of all where none is."""
    if not flags.any():
        return 0, len(flags)
    edges = np.flatnonzero(np.diff(np.concatenate([[0], flags.astype(np.int8), [0]])))
    starts, stops = edges[::2], edges[1::2]
    longest = int(np.argmax(stops - starts))
    return int(starts[longest]), int(stops[longest])


def _compared(example: Example) -> Example:
    """The example with the positions that are compared."""
    length = len(example.tokens)
    half = COMPARED // 2
    places = np.arange(length) if length <= COMPARED else np.r_[:half, length - half : length]
    return replace(example, positions=places, labels=np.zeros(len(places), np.int64))


def _joined(examples: Sequence[Example]) -> Example:
    starts = np.cumsum([0, *(len(example.tokens) for example in examples[:-1])])
    positions = [example.positions + start for example, start in zip(examples, starts, strict=True)]
    return Example(
        np.concatenate([example.tokens for example in examples]),
        np.concatenate(positions),
        np.concatenate([example.labels for example in examples]),
        np.array([len(example.tokens) for example in examples]),
    )
