"""Prefetcher: the inputs of the next micro-batch, made by a thread while the caller uses those before.

The thread reads, collates, packs the tensors into one pinned buffer, copies it to the device and decodes the records
there, on a stream of its own; what is left between two steps is to take a ready batch. On a CPU the same thread does
the same without the copy, and runs beside the step where a core is free.

Inputs of `depth` micro-batches exist beside those in use: at the default of 1 twice 632 bytes per position of default
records, and twice 4 bytes per position and class of dense ones.

B examples, P positions.
"""

from collections import deque
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from dataclasses import dataclass
from typing import Any, Self

import torch

from kdcache.store.batch import Batch
from kdcache.stream.loader import Loader
from kdcache.students.collate import Collator, Inputs
from kdcache.targets.moving import tensors_in

__all__ = ["Prefetched", "Prefetcher"]


@dataclass(frozen=True)
class Prefetched:
    """One micro-batch of B examples, L tokens (padded to the longest) and P positions.

    Attributes:
        inputs: Tokens [B, L], labels [P] and the teacher's records, which are decoded, on the device.
        number: Which micro-batch of its step it is, from 0.
        of: How many micro-batches the step has.
        positions: Of all micro-batches of the step on this rank.
        tokens: Likewise.
    """

    inputs: Inputs
    number: int
    of: int
    positions: int
    tokens: int


@dataclass(frozen=True)
class _Made:
    fed: Prefetched
    state: dict[str, Any]
    ready: Any


class Prefetcher(Iterator[Prefetched]):
    """A loader's micro-batches, step after step without an end, each made while the one before is used:

        with kdcache.Loader(cache, global_batch=32) as loader, kdcache.Prefetcher(loader, collate, "cuda") as feed:
            for _, fed in zip(range(loader.steps_per_epoch), feed):
                loss = model(fed.inputs, terms)[0] / fed.positions

    A thread reads, collates and packs a micro-batch into pinned memory, copies it on a stream of its own (about 100
    bytes per position of default records) and decodes its records there; the caller's stream waits for that, the host
    does not. On a CPU the thread does the same without the copy. Close it, or use it as a context manager, before the
    loader. What the loader raises is raised by the micro-batch that it is about.

    Args:
        loader: Where they come from; it is this object's alone from the first micro-batch on, and checkpoints keep the
            `state_dict` of this object in place of the loader's.
        collate: Of the student.
        device: Where the inputs are to be.
        depth: How many micro-batches are made ahead. So many exist beside those in use: 632 bytes per position of
            default records, 4 bytes per position and class of dense ones.
    """

    def __init__(self, loader: Loader, collate: Collator, device: torch.device | str, *, depth: int = 1) -> None:
        self.device = torch.device(device)
        self._loader, self._collate, self._depth = loader, collate, depth
        self._batches = self._read()
        self._stream = torch.cuda.Stream(self.device) if self.device.type == "cuda" else None
        self._pool = ThreadPoolExecutor(1, thread_name_prefix="kdcache-prefetch")
        self._coming: deque[Future[_Made]] = deque()
        self._state: dict[str, Any] | None = None

    def __next__(self) -> Prefetched:
        made = (self._coming.popleft() if self._coming else self._pool.submit(self._make)).result()
        self._state = made.state
        if made.ready is not None:
            current = torch.cuda.current_stream(self.device)
            current.wait_event(made.ready)
            for tensor in tensors_in(made.fed.inputs):
                tensor.record_stream(current)  # its memory is not given to others before the step is done with it
        # The thread begins when this one is done: they share the interpreter.
        while len(self._coming) < self._depth:
            self._coming.append(self._pool.submit(self._make))
        return made.fed

    def state_dict(self) -> dict[str, Any]:
        """The loader's state after the step of the last micro-batch that was handed out."""
        return self._loader.state_dict() if self._state is None else self._state

    def close(self) -> None:
        """Stop the thread and forget what was made ahead."""
        self._pool.shutdown(wait=True, cancel_futures=True)
        self._coming.clear()

    def __enter__(self) -> Self:
        return self

    def __exit__(self, *exception: object) -> None:
        self.close()

    def _read(self) -> Iterator[tuple[Batch, int, int, int, int, dict[str, Any]]]:
        for step in self._loader:
            positions, tokens = (sum(getattr(b, name) for b in step) for name in ("num_positions", "num_tokens"))
            state = self._loader.state_dict()
            for number, batch in enumerate(step):
                yield batch, number, len(step), positions, tokens, state

    def _make(self) -> _Made:
        batch, number, of, positions, tokens, state = next(self._batches)
        if self._stream is None:
            inputs = self._collate(batch).to(self.device).decoded()
            return _Made(Prefetched(inputs, number, of, positions, tokens), state, None)
        with torch.cuda.stream(self._stream):
            inputs = self._collate(batch).pin_memory().to(self.device, non_blocking=True).decoded()
            return _Made(Prefetched(inputs, number, of, positions, tokens), state, self._stream.record_event())
