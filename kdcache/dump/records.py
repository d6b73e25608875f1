"""From a unit's examples to the arrays of its shard: forward passes, logits in blocks, compression.

Blocks are compressed while a GPU teacher goes on with the next (compressing.py). Six blocks of logits are held at most:
the one being made, four that wait or are being compressed, and the one that was handed over last. On a CPU it is one
after the other, in the memory of one block (kdcache.models.wide_linear says what fresh memory costs).

The teacher reads batches of about one length, the longest first (kdcache.dump.batches). The shard holds the examples in
corpus order again.

P positions, V classes, D hidden width.
"""

from collections.abc import Callable, Iterator, Sequence
from contextlib import closing
from dataclasses import replace

import numpy as np

from kdcache.dump.batches import longest_first
from kdcache.dump.compressing import Compressing, TimedRows, compressing_threads
from kdcache.dump.engines.engine import Engine
from kdcache.dump.stages import Stages
from kdcache.store.batch import Batch
from kdcache.store.checked import checked_example
from kdcache.store.manifest import Header
from kdcache.store.parallel import in_order
from kdcache.store.schema import task_fields
from kdcache.store.unit import EXAMPLES_PER_UNIT, Unit
from kdcache.targets.calibration import Encoder
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
    teacher: Engine | None,
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
        own: The same positions in the teacher's tokens, where they are others; then its records go to the positions
            in order.
        stages: Where the time is counted.

    Raises:
        TeacherError: Logits are not finite; it names the example.
    """
    stages = stages or Stages()
    if own is not None:
        return _attached(header, index, examples, own, teacher, encoder, advance, stages)
    unit = Unit(header, index)
    batches = longest_first([len(e.tokens) for e in examples], int(header.compute["batch_tokens"]))
    compressing = Compressing(Recorder(header.records, encoder), index, stages)
    threads = 0 if teacher is None else compressing_threads(teacher.device)
    blocks = _read(unit, examples, batches, teacher, compressing, advance, transient=threads == 0)
    with closing(in_order(compressing.records, blocks, threads, WAITING)) as compressed:
        for _, arrays in compressed:
            unit.add_record(arrays)
    if not batches:
        return unit.arrays(last=True)
    shard = Batch(header.fields, unit.arrays(last=True), header.records, header.num_classes)
    return shard.take(np.argsort(np.concatenate(batches))).arrays


def _attached(
    header: Header,
    index: int,
    examples: Sequence[Example],
    own: Sequence[Example],
    teacher: Engine | None,
    encoder: Encoder | None,
    advance: Callable[[int], None],
    stages: Stages,
) -> dict[str, np.ndarray]:
    """The records of the teacher's own examples, at the positions of the cache's."""
    wide = tuple(replace(field, dtype="uint32") if field.name == "tokens" else field for field in header.fields)
    read = header.model_copy(update={"fields": wide, "tokenizer": None})
    records = unit_arrays(read, index, own, teacher, encoder, advance=advance, stages=stages)
    plain = task_fields(
        task_of(header.task),
        header.tokenizer.vocab_size if header.tokenizer else 1,
        header.num_classes,
        types=any(field.name == "token_types" for field in header.fields),
    )
    bare = header.model_copy(update={"fields": plain, "records": ()})
    rows = unit_arrays(bare, index, examples, None, advance=lambda tokens: None)
    return records | rows


def _read(
    unit: Unit,
    examples: Sequence[Example],
    batches: Sequence[np.ndarray],
    teacher: Engine | None,
    compressing: Compressing,
    advance: Callable[[int], None],
    *,
    transient: bool,
) -> Iterator[TimedRows]:
    """The examples into their unit, and what the teacher says of them, block by block. transient: see `rows_of`."""
    header = unit.header
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
            numbers = batch + unit.index * EXAMPLES_PER_UNIT
            yield from compressing.timed(rows_of(header, teacher, chosen, numbers, transient=transient))
        advance(sum(len(e.tokens) for e in chosen))


def rows_of(
    header: Header,
    teacher: Engine,
    examples: Sequence[Example],
    numbers: np.ndarray,
    *,
    transient: bool = False,
) -> Iterator[tuple[slice, TeacherRows]]:
    """What the teacher says at these examples' positions, block by block.

    Args:
        header: Of the cache.
        teacher: Runs when the first block is asked for.
        examples: Of one batch.
        numbers: Their numbers in the cache, int64.
        transient: Whether a block's logits may be overwritten when the next block is asked for.

    Yields:
        Which of the positions of all the examples a block has, and its rows.

    Raises:
        TeacherError: The task cannot have such outputs.
    """
    features = features_at(header.records)
    task = task_of(header.task)
    labels_P = np.concatenate([e.labels for e in examples])
    stands_P2 = np.concatenate([_stands(e, int(number)) for e, number in zip(examples, numbers, strict=True)])
    keys_P3 = np.concatenate([np.full((len(stands_P2), 1), header.seed), stands_P2], 1)
    for part, logits_PV, hidden_PD in teacher.rows_of(examples, transient=transient):
        task.check_outputs(logits_PV)
        of_features = None if features is None else hidden_PD
        yield part, TeacherRows(logits_PV, labels_P[part], keys_P3[part], hidden_PD, of_features)


def _stands(example: Example, number: int) -> np.ndarray:
    """The number of the cache's example, and the position in it, where each record of an example stands, [P, 2]."""
    if example.stands is None:
        return np.stack([np.full(len(example.positions), number), example.positions], 1)
    stands_P2: np.ndarray = example.stands + np.array([number - number % EXAMPLES_PER_UNIT, 0])
    return stands_P2
