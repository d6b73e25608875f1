"""Work on some things at the same time, with results in their order and bounded memory."""

from collections import deque
from collections.abc import Callable, Iterable, Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["in_order"]

A = TypeVar("A")
B = TypeVar("B")


def in_order(do: Callable[[A], B], things: Iterable[A], jobs: int) -> Iterator[tuple[A, B]]:
    """(thing, what `do` gives) in the order of the things.

    Args:
        do: Called in threads. The first error that it raises, in that order, is raised here.
        things: As many as there are.
        jobs: How many threads; results of at most twice as many wait for their turn.
    """
    if jobs <= 1:
        for thing in things:
            yield thing, do(thing)
        return
    waiting: deque[tuple[A, Future[B]]] = deque()
    pool = ThreadPoolExecutor(jobs)
    try:
        for thing in things:
            waiting.append((thing, pool.submit(do, thing)))
            if len(waiting) >= 2 * jobs:
                first, future = waiting.popleft()
                yield first, future.result()
        while waiting:
            first, future = waiting.popleft()
            yield first, future.result()
    finally:
        pool.shutdown(cancel_futures=True)
