"""Things done in threads come in their order, so many and no more of them in memory, and errors keep their place."""

import threading
import time
from collections.abc import Iterator
from contextlib import closing

import pytest

from kdcache.store.parallel import in_order


def square(number: int) -> int:
    time.sleep(0.002 * (number % 3))
    if number == 5:
        raise ValueError("five")
    return number * number


def running() -> list[str]:
    return [thread.name for thread in threading.enumerate() if thread.name.startswith("in-order")]


@pytest.mark.parametrize(("threads", "ahead"), [(0, None), (1, 1), (1, None), (2, 1), (2, 4), (3, None)])
def test_results_come_in_order_and_an_error_after_those_before_it(threads: int, ahead: int | None) -> None:
    found: list[tuple[int, int]] = []
    with pytest.raises(ValueError, match="five"):
        found.extend(in_order(square, range(9), threads, ahead))
    assert found == [(number, number * number) for number in range(5)]
    assert [*in_order(square, [], threads, ahead)] == []
    assert not running()


@pytest.mark.parametrize("threads", [0, 1, 3])
def test_an_error_of_the_things_comes_after_the_results_of_those_before_it(threads: int) -> None:
    def things() -> Iterator[int]:
        yield from range(3)
        raise OSError("the fourth")

    found: list[tuple[int, int]] = []
    with pytest.raises(OSError, match="the fourth"):
        found.extend(in_order(square, things(), threads))
    assert found == [(0, 0), (1, 1), (2, 4)]


@pytest.mark.parametrize(("threads", "ahead"), [(1, 1), (1, 4), (2, 1), (2, 4), (3, 5)])
def test_no_more_is_taken_than_asked_for(threads: int, ahead: int) -> None:
    taken: list[int] = []

    def things() -> Iterator[int]:
        for number in (0, 1, 2, 3, 4, 6, 7, 8, 9, 10):
            taken.append(number)
            yield number

    with closing(in_order(square, things(), threads, ahead)) as results:
        for given in range(1, 4):
            next(results)
            time.sleep(0.03)
            assert len(taken) == given + ahead
    assert not running()


def test_what_has_not_begun_is_not_done_where_it_is_left_early() -> None:
    begun, gate, done = threading.Event(), threading.Event(), []

    def wait(number: int) -> None:
        if number:
            begun.set()
            gate.wait(5)
        done.append(number)

    with closing(in_order(wait, range(9), 1, ahead=6)) as results:
        next(results)
        assert begun.wait(5), "the thread goes on with what was taken"
        threading.Timer(0.05, gate.set).start()
    assert done == [0, 1]


def test_two_threads_work_at_the_same_time() -> None:
    both = threading.Barrier(2, timeout=5)
    assert [thing for thing, _ in in_order(lambda _: both.wait(), range(4), 2)] == [*range(4)]
