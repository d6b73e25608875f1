"""One thread that runs tasks in order behind the main loop, with a bounded queue: the teacher does not wait for disks.

An error in the thread reaches the main loop at its next `submit` or at `close`; tasks after it are not run.
"""

import queue
import threading
from collections.abc import Callable
from types import TracebackType
from typing import Self

__all__ = ["Background"]


class Background:
    def __init__(self, depth: int = 2) -> None:
        self._tasks: queue.Queue[Callable[[], object] | None] = queue.Queue(depth)
        self._error: BaseException | None = None
        self._thread = threading.Thread(target=self._run, name="shard-writer", daemon=True)
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
        except BaseException:
            if error is None:
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
