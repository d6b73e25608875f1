"""From blocks of a teacher's logits to records, in the main thread on a CPU and in two threads beside a GPU.

A GPU teacher goes on while its blocks are compressed, each thread on a stream of its own, so that kernels of all share
the GPU and the host's part of a record costs the teacher nothing. What waits, and in which order it is handed over, is
kdcache.store.parallel's.

P positions, V classes.
"""

import threading
import time
from collections.abc import Iterator
from contextlib import AbstractContextManager, nullcontext
from typing import NamedTuple

import numpy as np
import torch
from torch import Tensor

from kdcache.dump.stages import Stages
from kdcache.errors import TeacherError
from kdcache.store.unit import EXAMPLES_PER_UNIT
from kdcache.targets.never import usable_rows
from kdcache.targets.recorder import Recorder
from kdcache.targets.teacher_rows import TeacherRows

__all__ = ["Compressing", "TimedRows", "compressing_threads"]


def compressing_threads(device: torch.device) -> int:
    """How many threads compress beside the teacher: none where the teacher needs the processor itself."""
    return 0 if device.type == "cpu" else 2


class TimedRows(NamedTuple):
    """Rows of a teacher, when they were begun, and on a GPU what tells that they are made."""

    rows: TeacherRows
    begin: float
    made: torch.cuda.Event | None


class Compressing:
    """Blocks of a unit to its records, in as many threads as call, and the time that it takes.

    On a GPU each thread has a stream of its own, whose work does not wait for the teacher's later work.
    """

    def __init__(self, recorder: Recorder, index: int, stages: Stages) -> None:
        self._recorder, self._index, self._stages = recorder, index, stages
        self._of_thread = threading.local()

    def timed(self, blocks: Iterator[tuple[slice, TeacherRows]]) -> Iterator[TimedRows]:
        """The blocks, the time of whose forward is counted: here on a CPU, which has made its rows when it gives them,
        and by the thread that waits for them on a GPU."""
        while True:
            begin = time.perf_counter()
            block = next(blocks, None)
            if block is None:
                return
            rows = block[1]
            if rows.logits_PV.is_cuda:
                yield TimedRows(rows, begin, torch.cuda.current_stream(rows.logits_PV.device).record_event())
            else:
                self._stages.add("forward", self._index, begin)
                yield TimedRows(rows, begin, None)

    def records(self, block: TimedRows) -> dict[str, np.ndarray]:
        """The records of a block, in memory of their own: on the host before the block's memory is given to others."""
        rows, begin, made = block
        if made is not None:
            made.synchronize()
            self._stages.add("forward", self._index, begin)
        with self._stages.span("compress", self._index), self._beside(rows.logits_PV.device):
            try:
                arrays = self._recorder.arrays(rows)
            except TeacherError as error:
                raise _named(error, rows.logits_PV, rows.keys_P3) from None
        return arrays if rows.logits_PV.is_cuda else _apart(arrays, rows.logits_PV)

    def _beside(self, device: torch.device) -> AbstractContextManager[object]:
        if device.type != "cuda":
            return nullcontext()
        if not hasattr(self._of_thread, "stream"):
            self._of_thread.stream = torch.cuda.Stream(device)
        return torch.cuda.stream(self._of_thread.stream)


def _apart(arrays: dict[str, np.ndarray], logits_PV: Tensor) -> dict[str, np.ndarray]:
    """The arrays, copied where they are views of the logits, as those of a kind of record from elsewhere may be."""
    logits = logits_PV.numpy()
    return {name: array.copy() if np.may_share_memory(array, logits) else array for name, array in arrays.items()}


def _named(error: TeacherError, logits_PV: Tensor, keys_P3: np.ndarray) -> TeacherError:
    """The error with the place of the first row that cannot be stored."""
    row = int((~usable_rows(logits_PV)).nonzero()[0])
    unit, example = divmod(int(keys_P3[row, 1]), EXAMPLES_PER_UNIT)
    return TeacherError(f"unit {unit}, example {example}, position {keys_P3[row, 2]}: {error}")
