"""A unit's rows to its examples, with the bad rows left out where the config says so.

A bad row is one that the corpus or the task refuses with a RowError. Where a unit has none, its rows are read and
tokenised once. Otherwise they are halved until the bad ones are known, and the rest is tokenised once more.
"""

from collections.abc import Iterable
from dataclasses import dataclass

from kdcache.corpus import Corpus
from kdcache.corpus.split import sound_parts
from kdcache.dump.settings import DumpConfig
from kdcache.dump.tokenizers import own_examples
from kdcache.errors import CorpusError, RowError
from kdcache.progress import counted
from kdcache.store.manifest import SkippedRow
from kdcache.tasks import Example, Reader, Task, task_of

__all__ = [
    "UnitExamples",
    "check_share",
    "labelled_rows",
    "most_bad_rows",
    "no_position",
    "remedies",
    "unit_examples",
]

SHOWN = 3


@dataclass(frozen=True)
class UnitExamples:
    """notes: counts worth telling. bad: of the rows left out, number in the unit -> what is wrong.

    own: of a teacher that reads other tokens than the cache's, the same positions in its own.
    """

    examples: list[Example]
    own: list[Example] | None
    notes: dict[str, int]
    source_sha256: str
    bad: dict[int, RowError]

    @property
    def read(self) -> list[Example]:
        """The examples in the tokens that the teacher reads."""
        return self.examples if self.own is None else self.own

    @property
    def skipped(self) -> list[SkippedRow]:
        return [SkippedRow(row=row, why=error.why) for row, error in self.bad.items()]


def unit_examples(corpus: Corpus, reader: Reader, unit: int, *, skip: bool, own: Reader | None = None) -> UnitExamples:
    """skip: leave bad rows out. Otherwise the first one is raised as a RowError.

    own: what makes the teacher's own examples, where they are others.
    """
    rows = corpus.read(unit, skip=skip)
    numbers, bad = [*rows.rows], dict(rows.bad)

    def examples_of(kept: list[int]) -> tuple[list[Example], list[Example] | None, dict[str, int]]:
        if not kept:
            return [], None if own is None else [], {}

        def where(row: int) -> str:
            return corpus.where(unit, kept[row])

        table = rows.table.take([index[row] for row in kept]) if len(kept) < len(numbers) else rows.table
        examples, notes = reader.examples(table, where)
        return examples, None if own is None else own_examples(own, examples, table, where, notes), notes

    index = {row: i for i, row in enumerate(numbers)}
    try:
        examples, theirs, notes = examples_of(numbers)
    except RowError:
        if not skip:
            raise
        found: dict[int, RowError] = {}
        for _ in sound_parts(lambda begin, stop: examples_of(numbers[begin:stop]), 0, len(numbers), found):
            pass
        bad |= {numbers[i]: error for i, error in found.items()}
        examples, theirs, notes = examples_of([row for row in numbers if row not in bad])
    if bad:
        notes = {**notes, "skipped": len(bad)}
    return UnitExamples(examples, theirs, notes, rows.sha256, dict(sorted(bad.items())))


def labelled_rows(corpus: Corpus, reader: Reader, unit: int, *, skip: bool) -> int:
    """Rows with labels. Raises RowError for the first wrong one unless bad rows are skipped."""
    rows = corpus.read(unit, skip=skip)

    def check(begin: int, stop: int) -> int:
        part = rows.rows[begin:stop]
        return reader.check(rows.table.slice(begin, stop - begin), lambda row: corpus.where(unit, part[row]))

    if not skip:
        return check(0, len(rows.rows))
    return sum(count for _, count in sound_parts(check, 0, len(rows.rows), {}))


def remedies(config: DumpConfig, notes: dict[str, int] | None = None) -> dict[str, str]:
    """The settings that say what becomes of bad and overlong rows.

    notes: of a unit, to leave only those that mattered to it.
    """
    task = task_of(config.task)
    settings = {"on_bad_row": config.on_bad_row} | {name: getattr(config.task, name) for name in task.remedies}
    if notes is None or notes.get("skipped"):
        return settings
    return {name: settings[name] for name, counted in task.remedies.items() if any(notes.get(note) for note in counted)}


def check_share(config: DumpConfig, corpus: Corpus, skipped: Iterable[tuple[int, SkippedRow]]) -> None:
    """skipped: (unit, row) so far. Raises CorpusError where they are more than the config takes."""
    found, limit = [*skipped], most_bad_rows(config, corpus)
    if len(found) > limit:
        first = "; ".join(
            f"{corpus.where(unit, row.row)}: {row.why}" for unit, row in sorted(found, key=_place)[:SHOWN]
        )
        raise CorpusError(
            f"got {len(found):,} bad rows so far of {corpus.num_rows:,}, expected at most {limit:,} (bad_rows_at_most "
            f"{config.bad_rows_at_most:g}): mend them or raise bad_rows_at_most, and run the same command again; "
            f"finished shards are kept. The first: {first}"
        )


def most_bad_rows(config: DumpConfig, corpus: Corpus) -> int:
    """How many rows of this corpus may be skipped."""
    return int(config.bad_rows_at_most * corpus.num_rows + 1e-9)


def no_position(corpus: Corpus, task: Task) -> CorpusError:
    """Of a corpus that gives nothing to learn."""
    return CorpusError(
        f"the corpus gives no supervised position in {counted(corpus.num_units, 'shard')}, expected at least one: "
        f"{task.nothing_to_learn}"
    )


def _place(found: tuple[int, SkippedRow]) -> tuple[int, int]:
    return found[0], found[1].row
