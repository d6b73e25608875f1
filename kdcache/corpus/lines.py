"""Where rows begin in JSONL, CSV, CoNLL and plain text, and the bytes of a range of rows.

JSONL  a row is a line that is not empty
CSV    a row is a record: a line break inside quotes does not end it (the parity of the quotes before it, RFC 4180);
       the first record names the columns, where the settings do not
conll  a row is a sentence: kdcache.corpus.conll
text   a row is a file. A row that has reached 64 KiB ends at the next blank line; one of 256 KiB at the next line
       end, one of 1 MiB at the next space. Joined, the rows are the file, so a cut falls between paragraphs, and
       never inside a short file. Not for text with one sample a line: write that as JSONL or CSV.

A UTF-8 byte order mark is skipped. The scan is one numpy pass a MiB: line breaks at 1.6 GB/s, quotes at 0.2; the
sha256 beside it does 0.8.
"""

import csv
import hashlib
import io
import json
import re
from collections.abc import Callable, Iterator
from dataclasses import replace

import numpy as np

from kdcache.corpus.conll import FIELDS, LONGEST_ROW, SentenceScanner, TooLong
from kdcache.corpus.conll_shape import check_shape
from kdcache.corpus.files import CorpusFile, changed, explained, format_of_name
from kdcache.corpus.index import FileIndex, Marks
from kdcache.corpus.layout import Layout
from kdcache.errors import CorpusError

__all__ = ["chunks", "index_lines", "line_of", "read_rows"]

CHUNK = 1 << 20
TEXT_ROW, TEXT_ROW_LINE, TEXT_ROW_WORD = 64 << 10, 256 << 10, 1 << 20
MOST_BYTES = 4 << 30
"""Of the rows that are read at once."""
BOM = b"\xef\xbb\xbf"
DELIMITERS = {"\t": "tab", ";": "semicolon", ",": "comma", "|": "'|'"}
NOT_TEXT = {
    b"\x1f\x8b": ("gzip", "name it {name}.gz, and it is decompressed"),
    b"\x28\xb5\x2f\xfd": ("zstd", "name it {name}.zst, and it is decompressed"),
    b"BZh": ("bzip2", "name it {name}.bz2, and it is decompressed"),
    b"\xfd7zXZ": ("xz", "name it {name}.xz, and it is decompressed"),
    b"\x04\x22\x4d\x18": ("lz4", "decompress it: lz4 -d {name}"),
    b"PK\x03\x04": ("zip", "unpack it: unzip {name}"),
    b"PAR1": ("Parquet", "set corpus.format: parquet"),
    b"ARROW1": ("Arrow", "set corpus.format: arrow"),
    b"\xff\xff\xff\xff": ("an Arrow stream", "set corpus.format: arrow"),
    b"\xff\xfe": ("UTF-16", "convert it: iconv -f UTF-16 -t UTF-8 {name}"),
    b"\xfe\xff": ("UTF-16", "convert it: iconv -f UTF-16 -t UTF-8 {name}"),
}
"""How files begin that are no text: what they are, and what to do."""
LONGEST_HEADER = 16 << 20
TAR = slice(257, 262)


class LineScanner:
    """Offsets of rows in a stream of bytes that begins at a row, for JSONL and CSV."""

    def __init__(self, quoted: bool) -> None:
        self._quoted = quoted
        self._in_quotes = 0
        self._offset = 0
        self._line_start = 0
        self._last = 0
        self._line_breaks = 0

    def feed(self, chunk: bytes) -> np.ndarray:
        """Offsets of the rows that end in this chunk."""
        if self._offset == 0 and chunk.startswith(BOM):
            self._line_start = len(BOM)
        data = np.frombuffer(chunk, np.uint8)
        ends = np.flatnonzero(data == ord("\n"))
        self._line_breaks += len(ends)
        if self._quoted:
            quotes = np.flatnonzero(data == ord('"'))
            ends = ends[(np.searchsorted(quotes, ends) + self._in_quotes) % 2 == 0]
            self._in_quotes = (self._in_quotes + len(quotes)) % 2
        starts = np.concatenate([[self._line_start - self._offset], ends + 1])
        lengths = ends - starts[:-1]
        before = np.where(ends > 0, data[ends - 1], self._last) if len(ends) else ends
        rows = starts[:-1][(lengths > 1) | ((lengths == 1) & (before != ord("\r")))] + self._offset
        self._line_start = int(starts[-1]) + self._offset
        self._offset += len(chunk)
        self._last = chunk[-1]
        return rows

    def finish(self) -> np.ndarray:
        """The offset of a last row with no line break behind it."""
        rest = self._offset - self._line_start
        has_row = rest > 1 or (rest == 1 and self._last != ord("\r"))
        return np.array([self._line_start] if has_row else [], np.int64)

    @property
    def lines(self) -> int:
        """Lines of the stream, empty ones too."""
        return self._line_breaks + (self._offset > 0 and self._last != ord("\n"))

    @property
    def open_quote(self) -> int | None:
        """Offset of the record whose quote never closed."""
        return self._line_start if self._in_quotes else None


class TextScanner:
    """Offsets of rows in a stream of bytes that begins at a row, for plain text. Holds one row in memory."""

    BLANK = re.compile(rb"\n(?:[ \t\r]*\n)+")

    def __init__(self) -> None:
        self._buffer = bytearray()
        self._row_start = 0
        self._searched = TEXT_ROW_WORD

    def feed(self, chunk: bytes) -> np.ndarray:
        if not self._buffer and self._row_start == 0 and chunk.startswith(BOM):
            self._row_start, chunk = len(BOM), chunk[len(BOM) :]
        self._buffer += chunk
        rows = self._rows(final=False)
        if len(self._buffer) > LONGEST_ROW:
            raise TooLong(self._row_start)
        return rows

    def finish(self) -> np.ndarray:
        rows = self._rows(final=True)
        return np.append(rows, self._row_start) if self._buffer else rows

    def _rows(self, final: bool) -> np.ndarray:
        rows = []
        while len(self._buffer) >= (TEXT_ROW if final else TEXT_ROW_WORD):
            cut = self._cut()
            if not cut:
                break
            rows.append(self._row_start)
            self._row_start += cut
            del self._buffer[:cut]
        return np.array(rows, np.int64)

    def _cut(self) -> int:
        """Bytes of the buffer's first row, 0 when it has no end yet."""
        blank = self.BLANK.search(self._buffer, TEXT_ROW, TEXT_ROW_LINE)
        if blank:
            return blank.end()
        line = self._buffer.find(b"\n", TEXT_ROW_LINE, TEXT_ROW_WORD) + 1
        if line:
            return line
        word = self._buffer.find(b" ", self._searched) + 1
        self._searched = TEXT_ROW_WORD if word else max(len(self._buffer), TEXT_ROW_WORD)
        return word


def _scanner(layout: Layout) -> LineScanner | TextScanner | SentenceScanner:
    if layout.format == "conll":
        return SentenceScanner(layout.comment)
    return TextScanner() if layout.format == "text" else LineScanner(layout.format == "csv" and layout.quotes)


def chunks(file: CorpusFile, advance: Callable[[int], None]) -> Iterator[bytes]:
    """The whole file, in order. Raises CorpusError when its size is not what it was when it was found."""
    size = 0
    with explained(file.name), file.open() as stream:
        while size <= file.size and (chunk := stream.read(CHUNK)):
            size += len(chunk)
            advance(len(chunk))
            yield chunk
    if size != file.size:
        raise changed(file.name, f"it had {file.size} bytes when it was found, {size} when it was read")


def index_lines(file: CorpusFile, advance: Callable[[int], None]) -> FileIndex:
    """Digest and row offsets of a file of lines, in one read."""
    layout = file.layout
    digest, marks, scanner = hashlib.sha256(), Marks(), _scanner(layout)
    has_header = layout.format == "csv" and layout.columns is None
    header: int | None = None
    width = begun = 0

    def add(starts: np.ndarray) -> None:
        nonlocal header, begun
        if len(starts):
            lengths = np.diff(starts, prepend=begun)
            if lengths.max() > LONGEST_ROW:
                raise _too_long(file, int(starts[lengths.argmax()] - lengths.max()))
            begun = int(starts[-1])
        if has_header and header is None and len(starts):
            header, starts = int(starts[0]), starts[1:]
        marks.add(starts)

    started = False
    for chunk in chunks(file, advance):
        if not started:
            _check_start(file, chunk)
            if layout.format == "conll":
                width = check_shape(file.name, layout, chunk, whole=len(chunk) == file.size)
        started = True
        digest.update(chunk)
        try:
            add(scanner.feed(chunk))
        except TooLong as error:
            raise _too_long(file, error.begin) from None
    add(scanner.finish())
    if file.size - begun > LONGEST_ROW:
        raise _too_long(file, begun)
    index = FileIndex(digest.hexdigest(), marks.rows, marks.array(), marks.stride)
    if isinstance(scanner, TextScanner):
        return replace(index, fields=("text",), line_is_row=False)
    if isinstance(scanner, SentenceScanner):
        return replace(index, fields=FIELDS, line_is_row=False, width=width)
    if scanner.open_quote is not None:
        place = f"{file.name}:{line_of(file, scanner.open_quote)}"
        raise CorpusError(
            f"{place} opens a quote that never closes, expected CSV with quotes in pairs; or set corpus.quotes: false"
        )
    if header is None:
        return replace(index, fields=layout.columns, line_is_row=scanner.lines == marks.rows)
    end = int(index.marks[0]) if marks.rows else file.size
    fields = _header(file, header, end)
    return replace(index, header=(header, end), fields=fields, line_is_row=scanner.lines == marks.rows + 1)


def _too_long(file: CorpusFile, begin: int) -> CorpusError:
    return CorpusError(
        f"{file.name} has a row of more than {LONGEST_ROW >> 20} MiB, from byte {begin:,} on, expected shorter ones: "
        "cut it into several, or leave it out"
    )


def _check_start(file: CorpusFile, chunk: bytes) -> None:
    format = file.layout.format
    for magic, (what, advice) in NOT_TEXT.items():
        if chunk.startswith(magic):
            raise CorpusError(f"{file.name} is {what}, expected plain UTF-8 {format}; {advice.format(name=file.name)}")
    if chunk[TAR] == b"ustar":
        raise CorpusError(
            f"{file.name} is a tar archive, expected plain UTF-8 {format}; unpack it: tar -xf {file.name}"
        )
    named = format_of_name(file.name) if format == "text" else None
    if named is not None:
        raise CorpusError(f"{file.name} is {named} by its name, expected plain text; set corpus.format: {named}")
    if format != "jsonl" and _is_jsonl(chunk):
        raise CorpusError(f"{file.name} holds one JSON object per line, expected {format}; set corpus.format: jsonl")
    begin = chunk.removeprefix(BOM).lstrip()[:1]
    if format == "jsonl" and begin not in (b"{", b""):
        got = "a JSON array" if begin == b"[" else repr(begin.decode("latin-1"))
        raise CorpusError(f"{file.name} begins with {got}, expected JSONL: one JSON object per line")


def _is_jsonl(chunk: bytes) -> bool:
    """Whether the first two lines are JSON objects."""
    lines = [line for line in chunk.removeprefix(BOM)[: 64 << 10].split(b"\n", 8) if line.strip()][:2]
    try:
        return len(lines) == 2 and all(line.startswith(b"{") and isinstance(json.loads(line), dict) for line in lines)
    except (ValueError, RecursionError):
        return False


def _header(file: CorpusFile, start: int, stop: int) -> tuple[str, ...]:
    if stop - start > LONGEST_HEADER:
        raise CorpusError(f"{file.name}:1 has {stop - start:,} bytes, expected a CSV header: see corpus.quotes")
    try:
        text = file.read(start, stop).decode("utf-8")
    except UnicodeDecodeError:
        raise CorpusError(f"{file.name}:1 is not UTF-8, expected a CSV header") from None
    delimiter = file.layout.delimiter or ","
    if file.layout.quotes:
        names = tuple(next(csv.reader(io.StringIO(text, newline=""), delimiter=delimiter)))
    else:
        names = tuple(text.rstrip("\r\n").split(delimiter))
    other = next((name for sign, name in DELIMITERS.items() if sign in names[0]), None) if len(names) == 1 else None
    if other is not None:
        raise CorpusError(
            f"{file.name}:1 has one column, {names[0]!r}, expected the names of columns; set corpus.delimiter: {other}"
        )
    return names


def read_rows(file: CorpusFile, index: FileIndex, first: int, stop: int) -> tuple[bytes, np.ndarray]:
    """The bytes of rows first … stop − 1, and where each begins in them.

    Nothing else is read from a file of up to 2²⁰ rows; beyond, up to a stride of rows on each side.
    """
    stride = index.stride
    head, tail = first // stride, -(-stop // stride)
    begin = int(index.marks[head])
    end = int(index.marks[tail]) if tail < len(index.marks) else file.size
    if end - begin > MOST_BYTES:
        raise CorpusError(
            f"{file.name} has {end - begin:,} bytes in its rows {first + 1:,} to {stop:,}, which are read at once, "
            f"expected at most {MOST_BYTES:,}; set corpus.unit_rows to fewer"
        )
    data = file.read(begin, end)
    if stride == 1:
        return data, np.asarray(index.marks[first:stop]) - begin
    scanner = _scanner(file.layout)
    starts = np.concatenate([scanner.feed(data), scanner.finish(), [len(data)]])
    if len(starts) - 1 != min(tail * stride, index.rows) - head * stride:
        raise changed(file.name, f"rows {first} to {stop - 1} are not where they were")
    starts = starts[first - head * stride : stop - head * stride + 1]
    return data[starts[0] : starts[-1]], starts[:-1] - starts[0]


def line_of(file: CorpusFile, offset: int, known: tuple[int, int] = (0, 1)) -> int:
    """The line, counted from 1, that this byte is on. For messages only: reads the file up to there.

    known: an offset before it and the line of that, to read on from there.
    """
    at, line = known
    while at < offset:
        stop = min(at + CHUNK, offset)
        line += file.read(at, stop).count(b"\n")
        at = stop
    return line
