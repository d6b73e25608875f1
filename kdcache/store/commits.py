"""The commit records of a cache that is being made: listed folder by folder, each read once, and kept as columns.

A restart reads every record, 10⁵ of them in about 3 s of CPU. Later looks list the folders again, and read only what is
new or was replaced since: the records of other ranks, and those that this one wrote. A store is asked for each folder's
names at once, and for each record once.
"""

import hashlib
import json
import struct
from collections.abc import Callable, Iterable, Iterator, Mapping, Sequence
from dataclasses import dataclass, field
from functools import cached_property
from typing import Any, NamedTuple

import numpy as np

from kdcache.errors import CacheError
from kdcache.progress import say
from kdcache.store.files import Root, Stamp, UnexpectedFile
from kdcache.store.limits import most_of
from kdcache.store.manifest import CommitRecord, Header, SkippedRow, Totals, canonical, parse
from kdcache.store.places import record_name, shard_folders, shard_name
from kdcache.store.record_text import PlainRecord, read_plain
from kdcache.store.table import COUNTS, DTYPES, NO_SOURCE, Table, Texts, hexadecimal, total
from kdcache.tasks.score import total_score

__all__ = ["Commits", "Committed", "Scan", "besides_of", "sum_notes"]

ROW = np.dtype([("unit", "<i8"), *DTYPES.items()])
STRUCT = struct.Struct("<q6q2i")
RECORD = ".json"
NO_STAMP = Stamp(0, 0)
BESIDES = ("notes", "made_under", "skipped", "taken")


class Committed(NamedTuple):
    """What a restart asks of a committed unit; as in its commit record."""

    unit: int
    source_sha256: str
    made_under: dict[str, str] | None


@dataclass(frozen=True)
class Commits:
    """The committed units of a cache, in order.

    Attributes:
        rows: A row for each: its unit and the columns of the table.
        besides: Unit -> its `besides` in the table, where that is not empty.
        scores: Unit -> the JSON of its score, where it has one.
    """

    rows: np.ndarray
    besides: Mapping[int, bytes] = field(repr=False)
    scores: Mapping[int, bytes] = field(repr=False)

    @classmethod
    def of(cls, records: Iterable[CommitRecord]) -> "Commits":
        """Of records that are in memory, in the order of units."""
        return cls._of([(record.unit, _found(record, canonical(record), NO_STAMP)) for record in records])

    @classmethod
    def _of(cls, units: "list[tuple[int, _Found]]") -> "Commits":
        rows = np.frombuffer(b"".join([found.row for _, found in units]), ROW)
        besides = {unit: found.besides for unit, found in units if found.besides}
        return cls(rows, besides, {unit: found.score for unit, found in units if found.score})

    def __len__(self) -> int:
        return len(self.rows)

    def __iter__(self) -> Iterator[Committed]:
        for unit, source in zip(self.units.tolist(), hexadecimal(self.rows["source_sha256"]), strict=True):
            made_under = json.loads(self.besides[unit]).get("made_under") if unit in self.besides else None
            yield Committed(unit, "" if source == NO_SOURCE else source, made_under)

    @cached_property
    def units(self) -> np.ndarray:
        """Their numbers, int64, ascending."""
        return self.rows["unit"].astype(np.int64)

    @property
    def positions(self) -> int:
        """Supervised positions of them all."""
        return total(self.rows["positions"])

    @property
    def table(self) -> Table:
        """What shards.arrow says of them."""
        columns = {name: np.ascontiguousarray(self.rows[name]) for name in DTYPES}
        return Table(columns, Texts.of([self.besides.get(unit, b"") for unit in self.units.tolist()]))

    def among(self, wanted: Callable[[np.ndarray], np.ndarray]) -> "Commits":
        """Some of them. wanted: units -> which ones, bool."""
        return Commits(self.rows[wanted(self.units)], self.besides, self.scores)

    def skipped(self) -> list[tuple[int, SkippedRow]]:
        """(unit, bad row that was left out), in order."""
        texts = ((unit, self.besides[unit]) for unit in self.units.tolist() if unit in self.besides)
        return [(unit, SkippedRow(**row)) for unit, text in texts for row in json.loads(text).get("skipped", ())]

    def taken(self) -> dict[int, list[str]]:
        """Unit -> the lines of its commit record that say which examples were taken of its source."""
        texts = {unit: json.loads(self.besides[unit]) for unit in self.units.tolist() if unit in self.besides}
        return {unit: values["taken"] for unit, values in texts.items() if "taken" in values}

    def totals(self) -> Totals:
        """The sums over them. Raises TypeError, ValueError or ArithmeticError for what cannot be added up."""
        units = self.units.tolist()
        notes = sum_notes(self.besides[unit] for unit in units if unit in self.besides)
        score = total_score(json.loads(self.scores[unit]) for unit in units if unit in self.scores)
        sums = {name: total(self.rows[name]) for name in COUNTS}
        return Totals(shards=len(self), notes=notes, score=score, **sums)


def besides_of(values: Mapping[str, Any]) -> bytes:
    """The `besides` of a commit record, of its values as JSON has them."""
    found = {name: values[name] for name in BESIDES if values.get(name)}
    return json.dumps(found, sort_keys=True, separators=(",", ":")).encode() if found else b""


def sum_notes(besides: Iterable[bytes]) -> dict[str, int]:
    """The notes of some shards, added up."""
    notes: dict[str, int] = {}
    for text in besides:
        for note, count in json.loads(text).get("notes", {}).items():
            notes[note] = notes.get(note, 0) + count
    return notes


class _Found(NamedTuple):
    """A commit record that was read.

    stamp: of its file. size: of its shard. row, besides, score: its row of the table, its `besides`, and the JSON of
    its score, empty where it has none. fault: why it does not count, with its verb.
    """

    stamp: Stamp
    size: int = 0
    row: bytes = b""
    besides: bytes = b""
    score: bytes = b""
    fault: str | None = None


class _Folder(NamedTuple):
    """What was found in a folder. listed: a digest of its names and states. valid: the units that count."""

    listed: int
    found: dict[int, _Found]
    valid: list[int]


class Scan:
    """What is known of the commit records of a cache, as it is being made by any number of processes."""

    def __init__(self, root: Root, header: Header) -> None:
        self.root, self.header = root, header
        self._header_sha256 = header.digest()
        self._most = most_of(record_name(0))
        self._suffix = shard_name(header, 0).removeprefix(record_name(0).removesuffix(".json"))
        self._folders: dict[str, _Folder] = {}

    def commits(self) -> Commits:
        """The valid ones as they are now: of this header, with a shard of that size in place.

        A damaged one counts as none, which is said once. Raises UnreadableError for one that cannot be read.
        """
        self._folders = {name: self._look(name) for name in shard_folders(self.root)}
        units = [(unit, folder.found[unit]) for folder in self._folders.values() for unit in folder.valid]
        return Commits._of(sorted(units, key=lambda one: one[0]))

    def why_not(self, unit: int) -> str:
        """What is wrong with a unit that is not among `commits`, with its verb."""
        name = record_name(unit).rpartition("/")[0]
        stamps = self.root.stamps(name)
        found = self._look(name).found.get(unit)
        return "is gone" if found is None else self._fault(unit, found, stamps) or "is damaged"

    def _look(self, folder: str) -> _Folder:
        """What is in a folder now; records whose file is as it was are not read again."""
        stamps, before = self.root.stamps(folder), self._folders.get(folder)
        listed = hash(tuple(stamps.items()))
        if before is not None and before.listed == listed:
            return before
        known = {} if before is None else before.found
        units = _records(folder, stamps)
        fresh = [unit for unit, stamp in units.items() if unit not in known or known[unit].stamp != stamp]
        names = [f"{unit:06d}{RECORD}" for unit in fresh]
        read = self.root.read_each(folder, names, self._most, wrong=_wrong)
        new = {
            unit: self._checked(unit, f"{folder}/{name}", units[unit], data)
            for unit, name, data in zip(fresh, names, read, strict=True)
            if data is not None
        }
        gone = new.keys() ^ fresh
        found = {unit: new.get(unit) or known[unit] for unit in units if unit not in gone}
        return _Folder(listed, found, [unit for unit, one in found.items() if self._fault(unit, one, stamps) is None])

    def _fault(self, unit: int, found: _Found, stamps: Mapping[str, Stamp]) -> str | None:
        """Why a record does not count. stamps: of the folder that it lies in."""
        if found.fault is not None:
            return found.fault
        got = stamps.get(f"{unit:06d}{self._suffix}")
        if got is None or got.bytes != found.size:
            return f"names a shard of {found.size} bytes, where there is {f'one of {got.bytes}' if got else 'none'},"
        return None

    def _checked(self, unit: int, name: str, stamp: Stamp, data: bytes | UnexpectedFile) -> _Found:
        try:
            if isinstance(data, UnexpectedFile):
                raise data
            record = read_plain(data) or parse(CommitRecord, data, name)
        except CacheError:
            say(f"{self.root.url}/{name} is damaged: its shard counts as missing and is made again")
            return _Found(stamp, fault="is damaged")
        if record.header_sha256 != self._header_sha256:
            return _Found(stamp, fault="is of another header")
        if record.unit != unit or record.file != f"{name[: -len(RECORD)]}{self._suffix}":
            return _Found(stamp, fault="is of another unit")
        return _found(record, data, stamp) if isinstance(record, CommitRecord) else _found_plain(record, data, stamp)


def _wrong(data: bytes) -> bool:
    """Raises CacheError where it is no commit record."""
    return read_plain(data) is None and not parse(CommitRecord, data, "a commit record")


def _records(folder: str, stamps: Mapping[str, Stamp]) -> dict[int, Stamp]:
    """Unit -> stamp of the commit records that belong into a folder, of what is in it."""
    found = {}
    for name, stamp in stamps.items():
        if name.endswith(RECORD) and (stem := name[: -len(RECORD)]).isascii() and stem.isdecimal():
            unit = int(stem)
            if record_name(unit) == f"{folder}/{name}":
                found[unit] = stamp
    return found


def _found(record: CommitRecord, data: bytes, stamp: Stamp) -> _Found:
    """A commit record whose file has these bytes."""
    values = record.model_dump(mode="json", include={*BESIDES, "score"}, exclude_none=True)
    score = json.dumps(values["score"], sort_keys=True).encode() if "score" in values else b""
    counts = [getattr(record, name) for name in COUNTS]
    row = _row(record.unit, counts, record.block_examples, record.sha256, record.source_sha256, data)
    return _Found(stamp, record.bytes, row, besides_of(values), score)


def _found_plain(record: PlainRecord, data: bytes, stamp: Stamp) -> _Found:
    besides = b""
    if record.notes or record.made_under:
        texts = {"notes": record.notes, "made_under": record.made_under}
        besides = besides_of({name: json.loads(text) for name, text in texts.items() if text})
    row = _row(record.unit, record.counts, record.block_examples, record.sha256, record.source_sha256, data)
    return _Found(stamp, record.counts[-1], row, besides, record.score)


def _row(unit: int, counts: Sequence[int], block_examples: int, sha256: str, source: str, data: bytes) -> bytes:
    digests = bytes.fromhex(sha256 + (source or NO_SOURCE)) + hashlib.sha256(data).digest()
    return STRUCT.pack(unit, *counts, block_examples, len(data)) + digests
