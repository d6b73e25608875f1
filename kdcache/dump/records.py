"""From a unit's examples to the arrays of its shard: forward passes, logits in blocks, compression.

A GPU teacher goes on while a thread compresses the blocks that it made, in their order and on a stream of its own, so
that kernels of both share the GPU and the host's part of a record costs it nothing. Six blocks of logits are held at
most, the one being made, four that wait and the one being compressed. On a CPU it is one after the other.

The teacher reads batches of about one length, the longest first (kdcache.dump.batches). The shard holds the examples in
corpus order again.

P positions, V classes, D hidden width.
"""

import time
from collections.abc import Callable, Iterator, Sequence
from contextlib import AbstractContextManager, nullcontext
from dataclasses import replace
from functools import partial

import numpy as np
import torch
from torch import Tensor

from kdcache.dump.background import AtOnce, Background
from kdcache.dump.batches import longest_first
from kdcache.dump.classifier import AnyTeacher
from kdcache.dump.stages import Stages
from kdcache.errors import TeacherError
from kdcache.store.batch import Batch
from kdcache.store.checked import checked_example
from kdcache.store.manifest import Header
from kdcache.store.schema import task_fields
from kdcache.store.unit import EXAMPLES_PER_UNIT, Unit
from kdcache.targets.calibration import Encoder
from kdcache.targets.never import usable_rows
from kdcache.targets.recorder import Recorder
from kdcache.targets.records import features_at
from kdcache.targets.teacher_rows import TeacherRows
from kdcache.tasks import Example, task_of

__all__ = ["rows_of", "unit_arrays"]

WAITING = 4
"""Blocks."""


def unit_arrays(
    header: Header,
    index: int,
    examples: Sequence[Example],
    teacher: AnyTeacher | None,
    encoder: Encoder | None = None,
    *,
    advance: Callable[[int], None],
    own: Sequence[Example] | None = None,
    stages: Stages | None = None,
) -> dict[str, np.ndarray]:
    """The arrays of a unit's shard.

    Args:
        header: Of the cache; it has the number of tokens in a batch.
        index: Of the unit.
        examples: Of the unit, in order.
        teacher: None for a label-only cache.
        encoder: Of calibrated records.
        advance: Told of tokens that are done.
        own: The same positions in the teacher's tokens, where they are others; then its records, dense ones, go to the
            positions in order.
        stages: Where the time is counted.

    Raises:
        TeacherError: Logits are not finite; it names the example.
    """
    stages = stages or Stages()
    if own is not None:
        return _attached(header, index, examples, own, teacher, advance, stages)
    unit = Unit(header, index)
    batches = longest_first([len(e.tokens) for e in examples], int(header.compute["batch_tokens"]))
    recorder = Recorder(header.records, encoder)
    beside = _Stream(None if teacher is None else teacher.device)
    aside = teacher is not None and compresses_aside(teacher.device)
    with Background("compressor", depth=WAITING) if aside else AtOnce() as compressing:
        for batch in batches:
            chosen = [examples[i] for i in batch]
            for e in chosen:
                unit.add_example(
                    checked_example(
                        header,
                        e.tokens,
                        positions=e.positions,
                        labels=e.labels,
                        documents=e.documents,
                        types=e.types,
                        continues=e.continues,
                    )
                )
            if teacher is not None:
                blocks = rows_of(header, teacher, chosen, batch + index * EXAMPLES_PER_UNIT)
                for rows, ready in _timed(blocks, stages, index):
                    compressing.submit(partial(_compress, recorder, rows, ready, unit, stages, beside))
            advance(sum(len(e.tokens) for e in chosen))
    if not batches:
        return unit.arrays()
    shard = Batch(header.fields, unit.arrays(), header.records, header.num_classes)
    return shard.take(np.argsort(np.concatenate(batches))).arrays


def _attached(
    header: Header,
    index: int,
    examples: Sequence[Example],
    own: Sequence[Example],
    teacher: AnyTeacher | None,
    advance: Callable[[int], None],
    stages: Stages,
) -> dict[str, np.ndarray]:
    """The records of the teacher's own examples, at the positions of the cache's."""
    wide = tuple(replace(field, dtype="uint32") if field.name == "tokens" else field for field in header.fields)
    read = header.model_copy(update={"fields": wide, "tokenizer": None})
    records = unit_arrays(read, index, own, teacher, advance=advance, stages=stages)
    plain = task_fields(
        task_of(header.task),
        header.tokenizer.vocab_size if header.tokenizer else 1,
        header.num_classes,
        types=any(field.name == "token_types" for field in header.fields),
    )
    bare = header.model_copy(update={"fields": plain, "records": ()})
    rows = unit_arrays(bare, index, examples, None, advance=lambda tokens: None)
    return records | rows


def compresses_aside(device: torch.device) -> bool:
    """Whether a thread compresses, beside the teacher: where the teacher does not need the processor itself."""
    return device.type != "cpu"


def _timed(
    blocks: Iterator[tuple[slice, TeacherRows]], stages: Stages, index: int
) -> Iterator[tuple[TeacherRows, Callable[[], None]]]:
    """The rows of each block, and what waits until its device has made them and counts the time of the forward."""
    while True:
        begin = time.perf_counter()
        block = next(blocks, None)
        if block is None:
            return
        rows = block[1]
        if rows.logits_PV.is_cuda:
            event = torch.cuda.current_stream(rows.logits_PV.device).record_event()
            yield rows, partial(_wait, event, stages, index, begin)
        else:
            stages.add("forward", index, begin)
            yield rows, _nothing


def _wait(event: torch.cuda.Event, stages: Stages, index: int, begin: float) -> None:
    event.synchronize()
    stages.add("forward", index, begin)


def _nothing() -> None:
    """Of a CPU, which has made its rows when it gives them."""


class _Stream:
    """Of the compressing thread, on a GPU: what is queued there does not wait for the teacher's later work."""

    def __init__(self, device: torch.device | None) -> None:
        self._own = torch.cuda.Stream(device) if device is not None and device.type == "cuda" else None

    def __call__(self) -> AbstractContextManager[object]:
        return nullcontext() if self._own is None else torch.cuda.stream(self._own)


def _compress(
    recorder: Recorder,
    rows: TeacherRows,
    ready: Callable[[], None],
    unit: Unit,
    stages: Stages,
    beside: _Stream,
) -> None:
    """The records of a block, into its unit. They are on the host before the block's memory is given to others."""
    ready()
    with stages.span("compress", unit.index), beside():
        try:
            unit.add_record(recorder.arrays(rows))
        except TeacherError as error:
            raise _named(error, rows.logits_PV, rows.keys_P3) from None


def rows_of(
    header: Header, teacher: AnyTeacher, examples: Sequence[Example], numbers: np.ndarray
) -> Iterator[tuple[slice, TeacherRows]]:
    """What the teacher says at these examples' positions, block by block.

    Args:
        header: Of the cache.
        teacher: Runs when the first block is asked for.
        examples: Of one batch.
        numbers: Their numbers in the cache, int64.

    Yields:
        Which of the positions of all the examples a block has, and its rows.

    Raises:
        TeacherError: The task cannot have such outputs.
    """
    features = features_at(header.records)
    task, positions = task_of(header.task), [e.positions for e in examples]
    labels_P = np.concatenate([e.labels for e in examples])
    numbers_P = np.repeat(numbers, [len(p) for p in positions])
    keys_P3 = np.stack([np.full(len(numbers_P), header.seed), numbers_P, np.concatenate(positions)], 1)
    for part, logits_PV, hidden_PD in _blocks(teacher, examples):
        task.check_outputs(logits_PV)
        of_features = None if features is None else hidden_PD
        yield part, TeacherRows(logits_PV, labels_P[part], keys_P3[part], hidden_PD, of_features)


def _blocks(teacher: AnyTeacher, examples: Sequence[Example]) -> Iterator[tuple[slice, Tensor, Tensor | None]]:
    """`rows` of each forward pass over these examples; the slices are of the positions of all of them."""
    done = 0
    for inputs, flat_P in teacher.feeding.passes(examples):
        for part, logits_PV, hidden_PD in teacher.rows(inputs, flat_P):
            yield slice(done + part.start, done + part.stop), logits_PV, hidden_PD
        done += len(flat_P)


def _named(error: TeacherError, logits_PV: Tensor, keys_P3: np.ndarray) -> TeacherError:
    """The error with the place of the first row that cannot be stored."""
    row = int((~usable_rows(logits_PV)).nonzero()[0])
    unit, example = divmod(int(keys_P3[row, 1]), EXAMPLES_PER_UNIT)
    return TeacherError(f"unit {unit}, example {example}, position {keys_P3[row, 2]}: {error}")
