"""open_corpus: columns of files as rows, cut into work units that depend on the corpus alone.

The rows of all files, in sorted order of the files' names, are one sequence. Unit i is the unit_rows rows of it from
row i · unit_rows on, so a unit may end in the next file; where a corpus grew under a finished cache, units begin anew
(`grow`). Opening reads every file once (index and sha256, 0.3 to 0.5
GB/s per core, CSV 0.15) unless `index_folder` knows it; ranks that open the same corpus at once take the files in
different orders and share what they find there.
"""

import hashlib
import json
import os
import random
import shutil
import tempfile
import uuid
import weakref
from collections.abc import Callable, Iterator, Sequence
from dataclasses import dataclass, replace
from pathlib import Path
from typing import Any

import numpy as np
import pyarrow as pa

from kdcache.corpus.column import Column
from kdcache.corpus.columnar import feed, index_arrow, index_parquet, read_arrow, read_parquet
from kdcache.corpus.columns import Names, check_columns, conform
from kdcache.corpus.compressed import plain_copy
from kdcache.corpus.conll import parse_conll
from kdcache.corpus.cutting import auto_unit_rows
from kdcache.corpus.files import CorpusFile, changed, find_files
from kdcache.corpus.hub import DatasetFiles, resolved
from kdcache.corpus.index import FileIndex, IndexFolder
from kdcache.corpus.lines import index_lines, line_of, read_rows
from kdcache.corpus.parse import parse_csv, parse_jsonl, parse_text
from kdcache.corpus.settings import CorpusConfig
from kdcache.corpus.split import sound_parts
from kdcache.errors import ConfigError, CorpusError, RowError, one_line

__all__ = ["Corpus", "UnitRows", "open_corpus"]

PAGE_BYTES = 256 << 20

Progress = Callable[[int, int], None]
Parse = Callable[[int, int], pa.Table]


@dataclass(frozen=True)
class UnitRows:
    """The rows of a unit.

    table: those that can be read. rows: their numbers in the unit. bad: of the others, number -> what is wrong.
    sha256: of the source of all of them, bad ones too.
    """

    table: pa.Table
    rows: tuple[int, ...]
    bad: dict[int, RowError]
    sha256: str


def open_corpus(
    config: CorpusConfig,
    columns: Sequence[Column],
    index_folder: Path | None = None,
    progress: Progress | None = None,
) -> "Corpus":
    """Find and index the files, to read these columns (at least one of them required) of their rows.

    Compressed ones are decompressed into index_folder, or else a temporary folder that goes with the corpus.
    progress is called with (bytes read, bytes to read) while files are read.
    Raises CorpusError for a path that means no file, a file of another format, a column that is missing, no row;
    ConfigError for one column under two settings.
    """
    folder = index_folder or Path(tempfile.gettempdir()) / f"kdcache-{uuid.uuid4().hex}"
    found = resolved(config) if config.format == "datasets" else DatasetFiles(config, config)
    files = [plain_copy(file, folder) for file in find_files(found.files)]
    indices = _index(files, index_folder, progress)
    corpus = Corpus(found, columns, files, indices)
    if index_folder is None:
        weakref.finalize(corpus, shutil.rmtree, folder, ignore_errors=True)
    check_columns(columns, [(file.name, index.fields) for file, index in zip(files, indices, strict=True)])
    corpus.check_label_names()
    if not corpus.num_rows:
        names = files[0].name if len(files) == 1 else f"{len(files)} files such as {files[0].name}"
        raise CorpusError(f"the corpus has no row in {names}, expected at least one")
    return corpus


class Corpus:
    """An opened corpus. Reading is safe from several threads.

    config: the settings, of a dataset with the split, the subset and the commit that were found.
    """

    def __init__(
        self,
        found: DatasetFiles,
        columns: Sequence[Column],
        files: Sequence[CorpusFile],
        indices: Sequence[FileIndex],
    ) -> None:
        self.config, config = found.config, found.files
        self._unit_rows = config.unit_rows
        self.columns = tuple(columns)
        self._format, self._card_names = config.format, found.class_names
        self._label_names = None if config.label_names is None else {str(i): n for i, n in config.label_names.items()}
        self._files = files
        self._indices = indices
        self._digests: dict[int, str] = {}
        self._lines: dict[int, tuple[int, int]] = {}
        self._ends = np.cumsum([index.rows for index in indices])
        self.num_rows = int(self._ends[-1])
        self.cut()

    def cut(self, shard_share: float | None = None) -> None:
        """Cut it into units, where the settings leave their size open, before any is named by its number.

        Args:
            shard_share: How many bytes of shard a byte of corpus makes, as far as that is known.
        """
        text_bytes = sum(self._text_bytes(*one) for one in zip(self._files, self._indices, strict=True))
        given = self._unit_rows
        self.unit_rows = auto_unit_rows(self.num_rows, text_bytes, shard_share) if given == "auto" else given
        self.grow(())

    def grow(self, ends: Sequence[int]) -> None:
        """Let units begin anew at these rows, where the corpus ended before it grew; before any is named by its number.

        Rows at which a unit begins anyway, and those beyond the end, say nothing and are left out.
        """
        first, starts = 0, list[np.ndarray]()
        self.grown_at: tuple[int, ...] = ()
        for end in ends:
            if first < end < self.num_rows and (end - first) % self.unit_rows:
                starts.append(np.arange(first, end, self.unit_rows))
                self.grown_at, first = (*self.grown_at, end), end
        self._starts = np.concatenate([*starts, np.arange(first, self.num_rows, self.unit_rows)]).astype(np.int64)
        self.num_units = len(self._starts)
        self._digests.clear()

    def rows_before(self, unit: int) -> int:
        """How many rows the units before this one have."""
        return int(self._starts[unit]) if unit < self.num_units else self.num_rows

    def _text_bytes(self, file: CorpusFile, index: FileIndex) -> int:
        if index.column_bytes is None:
            return file.size
        return sum(index.column_bytes.get(column.name, 0) for column in self.columns)

    @property
    def pin(self) -> dict[str, Any]:
        """What a manifest says of the corpus: sha256 of every file's size and content in order, and totals."""
        digest = hashlib.sha256()
        for file, index in zip(self._files, self._indices, strict=True):
            digest.update(json.dumps([file.size, index.sha256]).encode() + b"\n")
        return {
            "sha256": digest.hexdigest(),
            "files": len(self._files),
            "rows": self.num_rows,
            "bytes": sum(file.size for file in self._files),
            **({"grown_at": self.grown_at} if self.grown_at else {}),
        }

    def unit(self, unit: int) -> pa.Table:
        """The unit's rows, with the columns in the order they were asked for; kdcache.corpus.columns has the types."""
        return self.read(unit).table

    def tables(self, *, skip: bool = False) -> Iterator[pa.Table]:
        """Every unit's rows. skip: leave bad ones out."""
        return (self.read(unit, skip=skip).table for unit in range(self.num_units))

    def read(self, unit: int, *, skip: bool = False) -> UnitRows:
        """The unit's rows and the digest of their source, from one read.

        skip: leave bad rows out. Otherwise the first one is raised as a RowError.
        """
        digest, pieces = hashlib.sha256(), self._pieces(unit)
        tables: list[pa.Table] = []
        rows: list[int] = []
        bad: dict[int, RowError] = {}
        done = 0
        for piece in pieces:
            parse, count = self._source(*piece, digest, several=len(pieces) > 1), piece[2] - piece[1]
            found: dict[int, RowError] = {}
            for part, table in sound_parts(parse, 0, count, found):
                tables.append(table)
                rows += range(done + part.start, done + part.stop)
            bad |= {done + row: error.moved(done + row - error.row) for row, error in found.items()}
            if bad and not skip:
                raise bad[min(bad)]
            done += count
        sha256 = digest.hexdigest()
        if self._digests.setdefault(unit, sha256) != sha256:
            raise changed(self.where(unit, 0), "the rows from there on are others")
        return UnitRows(self._joined(tables, unit), tuple(rows), dict(sorted(bad.items())), sha256)

    def _joined(self, tables: Sequence[pa.Table], unit: int) -> pa.Table:
        if not tables:
            return pa.table({column.name: pa.nulls(0) for column in self.columns})
        return pa.table({column.name: _joined(tables, column.name, unit) for column in self.columns})

    def unit_sha256(self, unit: int) -> str:
        """Digest of the unit's source: of its bytes where rows are bytes, of the wanted columns' values otherwise.

        The same in any number of files of any names, but where a CSV's columns have others. Reads the rows once and
        remembers the digest.
        """
        if unit not in self._digests:
            digest, pieces = hashlib.sha256(), self._pieces(unit)
            for piece in pieces:
                self._source(*piece, digest, several=len(pieces) > 1)
            self._digests[unit] = digest.hexdigest()
        return self._digests[unit]

    def check_unchanged(self, unit: int | None = None) -> None:
        """Raises CorpusError where a file is not, as far as its file system can tell, the one that was opened.

        unit: to look at the files of one unit alone.
        """
        numbers = range(len(self._files)) if unit is None else [number for number, _, _ in self._pieces(unit)]
        for number in numbers:
            self._files[number].check_unchanged()

    def where(self, unit: int, row: int) -> str:
        """ "file.jsonl:123" for a row of a unit, for messages."""
        rows = self.rows_before(unit) + row
        number = int(np.searchsorted(self._ends, rows, side="right"))
        return self._place(number, rows - self._first_row(number))

    def check_label_names(self) -> None:
        """Raises ConfigError where the settings name the integers of a column otherwise than the file itself."""
        if self._label_names is None:
            return
        for file, index in zip(self._files, self._indices, strict=True):
            for column in self.columns:
                own = index.class_names.get(column.name) or self._card_names.get(column.name)
                if own is not None and dict(enumerate(own)) != {int(i): n for i, n in self._label_names.items()}:
                    raise ConfigError(
                        f"got corpus.label_names for {file.name}, which itself names the classes of {column.name}: "
                        f"{', '.join(own[:12])}; leave corpus.label_names out, and rename by task.label_map"
                    )

    def _first_row(self, number: int) -> int:
        return int(self._ends[number]) - self._indices[number].rows

    def _place(self, number: int, row: int, line: int = 0) -> str:
        """line: which of the row's lines, of a format whose rows have several."""
        file, index = self._files[number], self._indices[number]
        if self._format in ("parquet", "arrow"):
            return f"{file.name} row {row + 1}"
        if index.line_is_row:
            return f"{file.name}:{row + 1 + (index.header[1] > 0)}"
        head = row // index.stride * index.stride
        _, starts = read_rows(file, index, head, row + 1)
        offset = int(index.marks[row // index.stride] + starts[-1])
        known = self._lines.get(number, (0, 1))
        begin = line_of(file, offset, known if known[0] <= offset else (0, 1))
        self._lines[number] = offset, begin
        return f"{file.name}:{begin + line}"

    def _pieces(self, unit: int) -> list[tuple[int, int, int]]:
        """(file number, first row, stop row) of each file the unit has rows of."""
        begin, end = self.rows_before(unit), self.rows_before(unit + 1)
        number = int(np.searchsorted(self._ends, begin, side="right"))
        pieces = []
        while begin < end:
            stop = min(end, int(self._ends[number]))
            if begin < stop:
                first = self._first_row(number)
                pieces.append((number, begin - first, stop - first))
            begin, number = stop, number + 1
        return pieces

    def _names(self, number: int) -> dict[str, Names]:
        """The names of the integers in the columns of labels, by the settings, or else by the file's schema."""
        labels = [column.name for column in self.columns if column.kind in ("label", "labels")]
        if self._label_names is not None:
            return dict.fromkeys(labels, self._label_names)
        known = {**self._card_names, **self._indices[number].class_names}
        return {name: {str(i): text for i, text in enumerate(known[name])} for name in labels if name in known}

    def _source(self, number: int, first: int, stop: int, digest: Any, *, several: bool) -> Parse:
        """Read rows first … stop − 1 of a file, feed the digest, and give what makes a range of them a table.

        several: whether the unit has rows of other files too.
        """
        file, index, names = self._files[number], self._indices[number], self._names(number)
        if several and self._format != "jsonl":
            digest.update(f"{stop - first}\n".encode())
        if self._format in ("parquet", "arrow"):
            fields = [column.name for column in self.columns if column.name in (index.fields or ())]
            read = read_parquet if self._format == "parquet" else read_arrow
            table = read(file, index, fields, first, stop)
            feed(digest, table)
            if names:
                digest.update(json.dumps(names, sort_keys=True).encode())
            return lambda begin, end: conform(
                table.slice(begin, end - begin),
                self.columns,
                lambda row: self._place(number, first + begin + row),
                names,
            )
        data, starts = read_rows(file, index, first, stop)
        edges = np.append(starts, len(data))
        if self._card_names and names:
            digest.update(json.dumps(names, sort_keys=True).encode())
        if self._format == "csv":
            digest.update(json.dumps([index.fields, file.layout.delimiter]).encode())
        if file.layout.conllu:
            digest.update(b"CoNLL-U\n")
        digest.update(data)
        if self._format == "jsonl" and not data.endswith(b"\n"):
            digest.update(b"\n")

        def parse(begin: int, end: int) -> pa.Table:
            def where(row: int, line: int = 0) -> str:
                return self._place(number, first + begin + row, line)

            part, offsets = data[edges[begin] : edges[end]], edges[begin:end] - edges[begin]
            if self._format == "jsonl":
                table = parse_jsonl(part, offsets, self.columns, where)
            elif self._format == "csv":
                table = parse_csv(part, offsets, file.layout, index.fields or (), self.columns, where)
            elif self._format == "conll":
                table = parse_conll(part, offsets, file.layout, index.width, where)
            else:
                table = parse_text(part, offsets, where)
            return conform(table, self.columns, where, names)

        return parse


def _joined(pieces: Sequence[pa.Table], name: str, unit: int) -> pa.ChunkedArray:
    try:
        return pa.concat_tables([piece.select([name]) for piece in pieces], promote_options="permissive")[name]
    except pa.ArrowException as error:
        words = one_line(error)
        raise CorpusError(f"{name} has different types in the files of unit {unit}: {words}") from error


def _index(files: Sequence[CorpusFile], folder: Path | None, progress: Progress | None) -> list[FileIndex]:
    """Every file's index: from the folder, from another rank that wrote it meanwhile, or made here."""
    known = IndexFolder(folder)
    unknown = [file for file in files if file not in known]
    total = sum(file.size for file in unknown)
    done = fresh = 0

    def advance(count: int) -> None:
        nonlocal done
        done += count
        if progress is not None:
            progress(done, total)

    if folder is not None and total > PAGE_BYTES:
        random.Random(os.urandom(8)).shuffle(unknown)
    for file in unknown:
        if file in known:
            advance(file.size)
            continue
        index = _index_file(file, advance)
        file.check_unchanged()
        known.put(file, replace(index, blocks=file.seen.known()))
        fresh += file.size
        if fresh >= PAGE_BYTES:
            known.flush()
            known.refresh()
            fresh = 0
    known.flush()
    for file in files:
        file.seen.learn(known[file].blocks)
    return [known[file] for file in files]


def _index_file(file: CorpusFile, advance: Callable[[int], None]) -> FileIndex:
    if file.layout.format == "parquet":
        return index_parquet(file, advance)
    if file.layout.format == "arrow":
        return index_arrow(file, advance)
    return index_lines(file, advance)
