"""Work behind the main loop, in order: one thread, and a bounded number of tasks that nobody waits for.

The error of a task comes at the next `submit` or at `close`, before any that the main loop meets later, and tasks after
it are not run. What is made ahead of the main loop goes through kdcache.store.parallel.
"""

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ["Background"]


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
