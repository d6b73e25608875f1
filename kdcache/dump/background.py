"""Work beside the main loop, in order: what comes next is made ahead, and what is done with is put behind.

Either is one thread and a bounded number of things. An error keeps its place in the order: one of a thing that is made
ahead comes when the thing is asked for, one of a task comes at the next `submit` or at `close`, before any that the
main loop meets later, and tasks after it are not run.
"""

import queue
import threading
from collections import deque
from collections.abc import Callable, Generator, Iterable
from concurrent.futures import Future, ThreadPoolExecutor
from types import TracebackType
from typing import Self, TypeVar

__all__ = ["AtOnce", "Background", "made_ahead"]

Key = TypeVar("Key")
Made = TypeVar("Made")


def made_ahead(
    make: Callable[[Key], Made], keys: Iterable[Key], depth: int = 1
) -> Generator[tuple[Key, Made], None, None]:
    """(key, made of it) in order, where a thread makes up to `depth` things before they are asked for."""
    waiting: deque[tuple[Key, Future[Made]]] = deque()
    with ThreadPoolExecutor(1, "made-ahead") as pool:
        try:
            for key in keys:
                waiting.append((key, pool.submit(make, key)))
                if len(waiting) > depth:
                    first, made = waiting.popleft()
                    yield first, made.result()
            while waiting:
                first, made = waiting.popleft()
                yield first, made.result()
        finally:
            for _, made in waiting:
                made.cancel()


class Background:
    """Runs tasks in a thread of this name."""

    def __init__(self, name: str, depth: int = 2) -> None:
        self._tasks: queue.Queue[Callable[[], object] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name=name, daemon=True)
        self._thread.start()

    def submit(self, task: Callable[[], object]) -> None:
        """Queue a task; waits while `depth` tasks are queued. Raises the error of an earlier one."""
        self._raise()
        self._tasks.put(task)

    def close(self) -> None:
        """Wait until every queued task has run. Raises the first error."""
        self._tasks.put(None)
        self._thread.join()
        self._raise()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, kind: type[BaseException] | None, error: BaseException | None, tb: TracebackType | None) -> None:
        try:
            self.close()
        except BaseException as earlier:
            if error is None or (isinstance(error, Exception) and earlier is not error):
                raise

    def _raise(self) -> None:
        if self._error is not None:
            raise self._error

    def _run(self) -> None:
        while (task := self._tasks.get()) is not None:
            if self._error is None:
                try:
                    task()
                except BaseException as error:
                    self._error = error
                finally:
                    del task


class AtOnce:
    """As Background, but each task runs where it is submitted."""

    def submit(self, task: Callable[[], object]) -> None:
        """Run it. Raises its error."""
        task()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *error: object) -> None:
        pass
