"""Work on some things beside the one who asks for them, with results in their order and bounded memory."""

from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from typing import TypeVar

__all__ = ["in_order"]

A = TypeVar("A")
B = TypeVar("B")


def in_order(
    do: Callable[[A], B], things: Iterable[A], threads: int, ahead: int | None = None
) -> Generator[tuple[A, B], None, None]:
    """(thing, what `do` gives) in the order of the things.

    An error keeps its place in this order, be it one of `do` or of the things themselves: what comes before it is given
    first, and nothing that comes after it. Close the generator where it may be left early; what has not begun is then
    not done.

    Args:
        do: Called in threads.
        things: As many as there are, taken one by one in the thread that asks for results.
        threads: How many; with none a thing is done when its result is asked for.
        ahead: How many things may be taken before their results are asked for, by default twice the threads, less one.
            So many are in memory, the one that was given last, and the one that is being taken.
    """
    if threads == 0:
        for thing in things:
            yield thing, do(thing)
        return
    most = 2 * threads - 1 if ahead is None else ahead
    waiting: deque[tuple[A, Future[B]]] = deque()
    source, failed = iter(things), None
    pool = ThreadPoolExecutor(threads, "in-order")
    try:
        while failed is None:
            try:
                thing = next(source)
            except StopIteration:
                break
            except Exception as error:
                failed = error
                break
            waiting.append((thing, pool.submit(do, thing)))
            del thing
            if len(waiting) > most:
                first, made = waiting.popleft()
                yield first, made.result()
        while waiting:
            first, made = waiting.popleft()
            yield first, made.result()
        if failed is not None:
            raise failed
    finally:
        pool.shutdown(cancel_futures=True)
