"""Row ranges of Parquet files and of Arrow IPC files and streams.

Whole row groups or record batches that hold the range are read, of Parquet only the wanted columns. A stream of
record batches has no footer: its schema and the batches' own bytes are put together to a short stream. With
dictionary-encoded columns a stream is read from its start, since a batch needs the dictionaries before it.
"""

import hashlib
import json
from collections.abc import Callable, Iterator
from contextlib import contextmanager
from typing import Any

import numpy as np
import pyarrow as pa
import pyarrow.compute as pc

from kdcache.corpus.class_names import names_in_schema
from kdcache.corpus.columns import is_text
from kdcache.corpus.files import CorpusFile, changed, explained
from kdcache.corpus.index import FileIndex
from kdcache.corpus.lines import chunks
from kdcache.corpus.parquet_footer import read_footer
from kdcache.errors import CorpusError, KdcacheError, one_line
from kdcache.remote import RemoteError

__all__ = ["feed", "index_arrow", "index_parquet", "read_arrow", "read_parquet"]

MAGIC = b"ARROW1\0\0"
BATCH_ROWS = 1024


def index_parquet(file: CorpusFile, advance: Callable[[int], None]) -> FileIndex:
    digest = hashlib.sha256()
    for chunk in chunks(file, advance):
        digest.update(chunk)
    with _valid(file, "Parquet"), file.open() as stream:
        facts = read_footer(stream, file.size)
    named = facts["metadata"]
    return FileIndex(
        digest.hexdigest(),
        facts["rows"],
        np.cumsum([0, *facts["groups"]])[:-1],
        fields=tuple(facts["fields"]),
        column_bytes=facts["column_bytes"],
        class_names=names_in_schema(None if named is None else {b"huggingface": named.encode()}),
    )


def read_parquet(file: CorpusFile, index: FileIndex, fields: list[str], first: int, stop: int) -> pa.Table:
    from pyarrow import dataset, fs

    file.check_size()
    group, last = _holders(index.marks, first, stop)
    with _valid(file, "Parquet"):
        parquet, groups = dataset.ParquetFileFormat(), range(group, last + 1)
        if file.local:
            fragment = parquet.make_fragment(file.path, filesystem=fs.LocalFileSystem(), row_groups=groups)
        else:
            fragment = parquet.make_fragment(pa.PythonFile(file.open(), "r"), row_groups=groups)
        scanner = fragment.scanner(columns=fields, batch_size=BATCH_ROWS, batch_readahead=2, use_threads=False)
        return _slice(
            map(_sound, scanner.to_batches()), scanner.projected_schema, int(index.marks[group]), first, stop, file
        )


def feed(digest: Any, table: pa.Table) -> None:
    """Feed a digest with the values of a table, whatever their chunks, encodings and string widths.

    Strings at about the speed of the digest, other types as JSON.
    """
    for name in table.column_names:
        digest.update(json.dumps([name, len(table)]).encode())
        values = table[name]
        if not is_text(values.type):
            digest.update(json.dumps(values.to_pylist(), default=str).encode())
            continue
        lengths = pc.fill_null(pc.binary_length(values.cast(pa.large_string())), -1)
        digest.update(lengths.to_numpy().astype("<i8").tobytes())
        for chunk in pc.fill_null(values.cast(pa.large_string()), "").chunks:
            offsets = np.frombuffer(chunk.buffers()[1], "<i8")[chunk.offset : chunk.offset + len(chunk) + 1]
            if chunk.buffers()[2] is not None:
                digest.update(memoryview(chunk.buffers()[2])[offsets[0] : offsets[-1]])


def index_arrow(file: CorpusFile, advance: Callable[[int], None]) -> FileIndex:
    """An Arrow file is a stream between a magic word and a footer, so both are read as streams."""
    with explained(file.name), file.open() as stream:
        is_file = stream.read(len(MAGIC)) == MAGIC
        stream.seek(0)
        hashed = _Hashed(stream, advance)
        hashed.read(len(MAGIC) if is_file else 0)
        with _valid(file, "Arrow"):
            reader = pa.ipc.open_stream(hashed)
            rows, ends = [0], [hashed.offset]
            for batch in reader:
                rows.append(batch.num_rows)
                ends.append(hashed.offset)
        while hashed.read(1 << 20):
            pass
    if hashed.offset != file.size:
        raise changed(file.name, f"it had {file.size} bytes when it was found, {hashed.offset} when it was read")
    marks = np.concatenate([np.cumsum(rows)[:-1], ends])
    with _valid(file, "Arrow"):
        fields, class_names = tuple(reader.schema.names), names_in_schema(reader.schema.metadata)
    return FileIndex(hashed.digest.hexdigest(), sum(rows), marks, fields=fields, class_names=class_names)


def read_arrow(file: CorpusFile, index: FileIndex, fields: list[str], first: int, stop: int) -> pa.Table:
    count = len(index.marks) // 2
    starts, ends = index.marks[:count], index.marks[count:].tolist()
    batch, last = _holders(starts, first, stop)
    header = file.read(0, ends[0]).removeprefix(MAGIC)
    with _valid(file, "Arrow"):
        schema = pa.ipc.open_stream(pa.BufferReader(header)).schema
        if any(_has_dictionary(column.type) for column in schema):
            batch = 0
        data = header + file.read(ends[batch], ends[last + 1])
        batches = (_sound(found.select(fields)) for found in pa.ipc.open_stream(pa.BufferReader(data)))
        return _slice(
            batches, pa.schema([schema.field(field) for field in fields]), int(starts[batch]), first, stop, file
        )


def _sound(batch: pa.RecordBatch) -> pa.RecordBatch:
    """The batch, with offsets that stay in their buffers and text that is UTF-8: Arrow reads it unlooked at."""
    batch.validate(full=True)
    return batch


class _Hashed:
    """A file that is hashed as it is read."""

    closed = False

    def __init__(self, stream: Any, advance: Callable[[int], None]) -> None:
        self.digest = hashlib.sha256()
        self.offset = 0
        self._stream = stream
        self._advance = advance

    def read(self, size: int) -> bytes:
        data: bytes = self._stream.read(size)
        self.digest.update(data)
        self.offset += len(data)
        self._advance(len(data))
        return data


@contextmanager
def _valid(file: CorpusFile, format: str) -> Iterator[None]:
    try:
        yield
    except RemoteError as error:
        raise CorpusError(f"cannot read corpus file {file.name}: {error}") from error
    except KdcacheError:
        raise
    except Exception as error:  # pyarrow raises many classes for a broken file
        words = one_line(error)
        raise CorpusError(f"{file.name} is not {format}: {words}; set corpus.format or mend the file") from error


def _holders(starts: np.ndarray, first: int, stop: int) -> tuple[int, int]:
    """The first and the last group of rows with a row of first … stop − 1 in it; empty groups hold none."""
    group, last = np.searchsorted(starts, [first, stop - 1], side="right") - 1
    return int(group), int(last)


def _slice(batches: Any, schema: pa.Schema, row: int, first: int, stop: int, file: CorpusFile) -> pa.Table:
    """Rows first … stop − 1 of batches that begin at `row`; dictionary-encoded values become plain."""
    kept = []
    for batch in batches:
        begin, end = max(first - row, 0), min(stop - row, batch.num_rows)
        if begin < end:
            kept.append(batch.slice(begin, end - begin))
        row += batch.num_rows
        if row >= stop:
            break
    table = pa.Table.from_batches(kept, schema)
    if len(table) != stop - first:
        raise changed(file.name, f"rows {first} to {stop - 1} are not there")
    return pa.table({name: _plain(table[name]) for name in table.column_names})


def _plain(column: pa.ChunkedArray) -> pa.ChunkedArray:
    return column.cast(column.type.value_type) if pa.types.is_dictionary(column.type) else column


def _has_dictionary(type: pa.DataType) -> bool:
    return pa.types.is_dictionary(type) or any(_has_dictionary(type.field(i).type) for i in range(type.num_fields))
