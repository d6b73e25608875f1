"""What a rank is doing, for those that wait for it: the phase of the run, after which step, and whether it gets on.

    start        making the student and the engine
    load         checking, converting and reading a checkpoint
    step         reading, forward and backward passes, the update
    evaluation   scoring the held-out cache
    save         writing a checkpoint
    export       writing the student

It gets on with each micro-batch of a step, each batch of an evaluation and each weight of an export, which say so; with
each MiB that the process moves to or from a disk; and, where the work is the processor's (start, load, export), with
each second that the main thread or a process of its own computes. A GPU that hangs keeps the thread busy which waits
for it, so in the other phases that is no sign.

A rank waits while its main thread is in a collective of torch.distributed or DeepSpeed, as its stack says, or between
`with waiting()`, for collectives that come back before they are done, as NCCL's do.
"""

import resource
import sys
import threading
import time
from collections.abc import Iterator
from contextlib import contextmanager, suppress
from types import FrameType

import psutil

__all__ = ["Phases"]

BLOCKS_OF_A_MIB = 2048
COMPUTING = ("start", "load", "export")
COLLECTIVES = ("torch.distributed.distributed_c10d", "deepspeed.comm")
LIBRARIES = {"torch", "deepspeed", "transformers", "safetensors", "numpy", *sys.stdlib_module_names}


class Phases:
    """Told by the main thread of a rank, and read by another.

    Attributes:
        phase: Its name.
        step: How many steps are done.
        marks: How often the main thread said that it gets on.
    """

    def __init__(self) -> None:
        self.phase, self.step, self.marks = "start", 0, 0
        self._waiting, self._signs = False, 0
        self._main = threading.main_thread().ident or 0
        self._blocks, self._seconds = _blocks(), 0.0

    @contextmanager
    def of(self, phase: str, step: int) -> Iterator[None]:
        """A phase after so many steps, which lasts as long as this; then the one before goes on."""
        before = self.phase
        self.begin(phase, step)
        try:
            yield
        finally:
            self.begin(before, step)

    def begin(self, phase: str, step: int) -> None:
        """A phase after so many steps, which lasts until the next one."""
        self.phase, self.step = phase, step
        self.got_on()

    def got_on(self, *_: object) -> None:
        """Another part of the phase is done."""
        self.marks += 1

    @contextmanager
    def waiting(self) -> Iterator[None]:
        """Around what ends when all ranks have come to it."""
        self._waiting = True
        yield
        self._waiting = False

    def waits(self) -> bool:
        """Whether the main thread waits for other ranks."""
        return self._waiting or any(_is_collective(frame, innermost=i == 0) for i, frame in enumerate(self._stack()))

    def signs(self) -> int:
        """A number that is another one when the process has moved data or computed since it was asked last."""
        blocks, seconds = _blocks(), self._computed() if self.phase in COMPUTING else self._seconds
        if blocks - self._blocks >= BLOCKS_OF_A_MIB or abs(seconds - self._seconds) >= 1:
            self._blocks, self._seconds, self._signs = blocks, seconds, self._signs + 1
        return self._signs

    def place(self) -> str:
        """Where the main thread is: the innermost function of kdcache or of a user's, "module.function, line 12"."""
        for frame in self._stack():
            module = str(frame.f_globals.get("__name__", "?"))
            if module.partition(".")[0] not in LIBRARIES:
                return f"{module}.{frame.f_code.co_name}, line {frame.f_lineno}"
        return "no code of kdcache"

    def _stack(self) -> Iterator[FrameType]:
        frame = sys._current_frames().get(self._main)
        while frame is not None:
            yield frame
            frame = frame.f_back

    def _computed(self) -> float:
        """Seconds of processor time of the main thread, and of the processes that it started and that still run."""
        seconds = time.clock_gettime(time.pthread_getcpuclockid(self._main))
        for child in psutil.Process().children():
            with suppress(psutil.Error):
                seconds += sum(child.cpu_times()[:2])
        return seconds


def _blocks() -> int:
    """Of 512 bytes that this process had from disks and wrote to them, pages of mapped files included."""
    used = resource.getrusage(resource.RUSAGE_SELF)
    return used.ru_inblock + used.ru_oublock


def _is_collective(frame: FrameType, *, innermost: bool) -> bool:
    module = str(frame.f_globals.get("__name__", ""))
    return module.startswith(COLLECTIVES) or (
        innermost and frame.f_code.co_name == "wait" and module.startswith("deepspeed")
    )
