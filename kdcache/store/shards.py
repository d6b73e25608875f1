"""The shards of a finished cache: what its table says of each as columns, and their commit records on first use.

10⁵ shards take 16 MB, and no object each. A commit record that is read is compared with the digest that the table has
of it, and with everything that the table says too. On an object store that is one small request for a shard, before the
first of its blocks.
"""

import hashlib
import json
import threading
from collections.abc import Iterator, Sequence
from typing import Any, overload

from kdcache.errors import CacheError, DamagedShardError, UnreadableError, next_command, one_line
from kdcache.store.blocks import COUNTED
from kdcache.store.commits import Commits, besides_of
from kdcache.store.files import Root
from kdcache.store.manifest import Besides, CommitRecord, CorpusPin, Header, Manifest, SkippedRow, TablePin, parse
from kdcache.store.places import record_name, shard_name
from kdcache.store.table import BESIDES, COUNTS, NO_SOURCE, TABLE, Table, encode_table
from kdcache.targets.fields import Level

__all__ = ["Shards", "manifest_of", "with_shards"]

KEPT = 1024
"""How many commit records stay in memory."""


class Shards(Sequence[CommitRecord]):
    """shards[i] reads a commit record, or raises DamagedShardError. Safe from several threads.

    Attributes:
        table: What is pinned of every shard.
    """

    def __init__(self, root: Root | None, header: Header, table: Table) -> None:
        self.table = table
        self._root, self._header = root, header
        self._kept: dict[int, CommitRecord] = {}
        self._lock = threading.Lock()

    def __len__(self) -> int:
        return len(self.table)

    @overload
    def __getitem__(self, index: int) -> CommitRecord: ...
    @overload
    def __getitem__(self, index: slice) -> list[CommitRecord]: ...
    def __getitem__(self, index: int | slice) -> CommitRecord | list[CommitRecord]:
        if isinstance(index, slice):
            return [self[i] for i in range(*index.indices(len(self)))]
        unit = range(len(self))[index]
        found = self._kept.get(unit)
        if found is None:
            found = self._read(unit)
            with self._lock:
                while len(self._kept) >= KEPT:
                    del self._kept[next(iter(self._kept))]
                self._kept[unit] = found
        return found

    def __iter__(self) -> Iterator[CommitRecord]:
        return (self[unit] for unit in range(len(self)))

    def file(self, unit: int) -> str:
        """The name of a shard's file."""
        return shard_name(self._header, unit)

    def digest(self, name: str, unit: int) -> str:
        """A digest of a shard. name: of its column."""
        return self.table[name][unit].tobytes().hex()

    def number(self, name: str, unit: int) -> int:
        """What another column says of a shard."""
        return int(self.table[name][unit])

    def sizes(self, unit: int) -> dict[Level, int]:
        """How many elements each level of a shard has."""
        return {level: self.number(name, unit) for name, level in COUNTED.items()}

    def besides(self) -> Iterator[tuple[int, Besides]]:
        """(unit, what its commit record says besides) where it says something. Raises CacheError for other text."""
        return ((unit, self._besides(unit)) for unit, _ in self.table.besides)

    def skipped(self) -> Iterator[tuple[int, SkippedRow]]:
        """(unit, bad row that was left out), in order. Raises CacheError as `besides` does."""
        return ((unit, row) for unit, besides in self.besides() for row in besides.skipped or ())

    def values(self, unit: int) -> dict[str, Any]:
        """What the commit record of a shard says as the table does. Raises CacheError as `besides` does."""
        source, besides = self.digest("source_sha256", unit), self._besides(unit)
        return {
            "unit": unit,
            "file": shard_name(self._header, unit),
            "header_sha256": self._header.digest(),
            "sha256": self.digest("sha256", unit),
            "source_sha256": "" if source == NO_SOURCE else source,
            **{name: self.number(name, unit) for name in (*COUNTS, "block_examples")},
            **{name: getattr(besides, name) for name in Besides.model_fields},
        }

    def record_fault(self, unit: int, data: bytes) -> str | None:
        """What is wrong with the bytes of a commit record; None where they are the pinned ones."""
        if len(data) != self.number("record_bytes", unit):
            return f"got {len(data)} bytes, expected {self.number('record_bytes', unit)}"
        expected, got = self.digest("record_sha256", unit), hashlib.sha256(data).hexdigest()
        return None if got == expected else f"got sha256 {got[:12]}…, expected {expected[:12]}…"

    def parsed(self, unit: int, data: bytes, where: str, remedy: str) -> CommitRecord:
        """The commit record in bytes that are the pinned ones. Raises CacheError where the table says otherwise."""
        record = parse(CommitRecord, data, where, remedy)
        for name, value in self.values(unit).items():
            if (got := getattr(record, name)) != value:
                got, expected = (str(one)[:80] for one in (got, value))
                raise CacheError(
                    f"{where} is damaged: {name}: got {got}, expected {expected} as shards.arrow says; {remedy}"
                )
        return record

    def _besides(self, unit: int) -> Besides:
        text = self.table.besides[unit]
        try:
            found = Besides.model_validate(json.loads(text)) if text else Besides()
            if besides_of(found.model_dump(mode="json", exclude_none=True)) == text:
                return found
            fault: object = "other JSON than a writer makes of its values"
        except (ValueError, RecursionError) as error:
            fault = one_line(error, 200)
        where = "" if self._root is None else f"{self._root.url}/"
        raise CacheError(f"{where}{TABLE} is damaged: its row {unit} has {BESIDES} with {fault}")

    def _read(self, unit: int) -> CommitRecord:
        assert self._root is not None
        name = record_name(unit)
        where, remedy = f"{self._root.url}/{name}", next_command("verify", self._root.url, "--repair")
        most = self.number("record_bytes", unit)
        try:
            data = self._root.read(name, most, wrong=lambda data: self.record_fault(unit, data))
            fault = self.record_fault(unit, data)
            if fault is None:
                return self.parsed(unit, data, where, remedy)
        except FileNotFoundError:
            raise DamagedShardError(f"{where} is missing; {remedy}") from None
        except UnreadableError:
            raise
        except CacheError as error:
            raise DamagedShardError(str(error)) from None
        raise DamagedShardError(f"{where} is damaged: {fault}; {remedy}")


def manifest_of(
    header: Header, commits: Commits, corpus: CorpusPin | None = None, root: Root | None = None
) -> tuple[Manifest, bytes]:
    """The manifest of these shards, of units 0 to n − 1, and the bytes of its table; nothing is written."""
    table = commits.table
    data = encode_table(table)
    pin = TablePin(bytes=len(data), sha256=hashlib.sha256(data).hexdigest())
    manifest = Manifest(header=header, corpus=corpus, totals=commits.totals(), table=pin)
    return with_shards(manifest, Shards(root, header, table)), data


def with_shards(manifest: Manifest, shards: Shards) -> Manifest:
    """The same manifest, which has these shards now."""
    manifest._shards = shards
    return manifest
