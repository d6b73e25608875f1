import threading

import pytest

from kdcache.dump.background import Background


def test_tasks_run_in_order_and_close_waits_for_all() -> None:
    done: list[int] = []
    with Background("test", depth=1) as background:
        for i in range(20):
            background.submit(lambda i=i: done.append(i))
    assert done == list(range(20))


def test_an_error_reaches_the_caller_and_stops_later_tasks() -> None:
    done: list[str] = []

    def fail() -> None:
        raise OSError("disk")

    background = Background("test")
    background.submit(fail)
    background.submit(lambda: done.append("after"))
    with pytest.raises(OSError, match="disk"):
        background.close()
    assert done == []


def test_the_queue_is_bounded() -> None:
    gate, reached = threading.Event(), threading.Event()
    background = Background("test", depth=1)
    background.submit(gate.wait)

    def feed() -> None:
        for _ in range(3):
            background.submit(lambda: None)
        reached.set()

    feeder = threading.Thread(target=feed)
    feeder.start()
    assert not reached.wait(0.2)
    gate.set()
    assert reached.wait(5)
    feeder.join()
    background.close()
