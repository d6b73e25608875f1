"""Find the bad rows among many without looking at each alone: halving, with what a RowError tells.

Where nothing is wrong there is one attempt over all rows. A bad row costs its neighbours another attempt: a few bad
ones among n rows cost about as many passes as their number has binary digits, and one more.
"""

from collections.abc import Callable, Iterator
from itertools import pairwise
from typing import TypeVar

from kdcache.errors import RowError

__all__ = ["sound_parts"]

T = TypeVar("T")


def sound_parts(
    attempt: Callable[[int, int], T], begin: int, stop: int, bad: dict[int, RowError]
) -> Iterator[tuple[range, T]]:
    """What `attempt` makes of ranges of rows that together are all rows from begin to stop but the bad ones.

    Args:
        attempt: (first row, row after the last) -> anything. Raises RowError, its row counted from the first one.
            Whether a row is bad must not depend on the rows beside it.
        bad: gets the error of each bad row, by its number.
    """
    if begin == stop:
        return
    try:
        made = attempt(begin, stop)
    except RowError as error:
        row = begin + error.row
        bad[row] = error
        edges = sorted({begin, row, row + 1, (begin + stop) // 2, stop})
        for first, last in pairwise(edges):
            if first != row:
                yield from sound_parts(attempt, first, last, bad)
        return
    yield range(begin, stop), made
