"""Which examples of a shard were taken, as a line of text: its unit, and the numbers of the examples in it.

    "3 0-4 7 9-12"     of unit 3 the examples 0 to 4, 7, and 9 to 12

Numbers ascend, and a run is written as its first and its last. A cache that was filtered has these lines in its commit
records, so that each of its examples is known by its number in the cache that it came from.
"""

from collections.abc import Iterable, Sequence
from typing import Annotated

import numpy as np
from pydantic import Field as Limits

__all__ = ["TakenText", "numbers_of", "taken_fault", "taken_text"]

_NUMBER = "(0|[1-9][0-9]{0,14})"
TakenText = Annotated[str, Limits(pattern=f"^{_NUMBER}( {_NUMBER}(-{_NUMBER})?)+$")]


def taken_text(unit: int, numbers: np.ndarray) -> str:
    """The line of a shard.

    Args:
        unit: Its number.
        numbers: Those of the examples in it, ascending, int64; one at least.
    """
    breaks = np.flatnonzero(np.diff(numbers) != 1)
    firsts, lasts = numbers[np.append(0, breaks + 1)].tolist(), numbers[np.append(breaks, len(numbers) - 1)].tolist()
    runs = (str(first) if first == last else f"{first}-{last}" for first, last in zip(firsts, lasts, strict=True))
    return " ".join([str(unit), *runs])


def numbers_of(line: str) -> tuple[int, np.ndarray]:
    """What `taken_text` was given of a line that `taken_fault` found right."""
    unit, *runs = line.split(" ")
    return int(unit), np.concatenate([np.arange(first, last + 1) for first, last in _runs(runs)])


def taken_fault(lines: Sequence[str], examples: int) -> str | None:
    """How the lines of a commit record contradict its number of examples or themselves; None if they do not."""
    count, before = 0, -1
    for line in lines:
        unit, *runs = line.split(" ")
        if int(unit) <= before:
            return f"taken: got shard {unit} after {before}, expected them in order"
        before, end = int(unit), -1
        for first, last in _runs(runs):
            if not end < first <= last:
                return f"taken: got the examples {first} to {last} of shard {unit}, expected them in order"
            count, end = count + last - first + 1, last
    return None if count == examples else f"taken: got {count} examples, expected {examples}"


def _runs(texts: Iterable[str]) -> Iterable[tuple[int, int]]:
    for text in texts:
        first, _, last = text.partition("-")
        yield int(first), int(last or first)
