"""CoNLL files: one word per line with its tag, a blank line between sentences.

A row is a sentence, with its words as `tokens` and its tags as `tags`, null where no word of it has one; which columns
these are kdcache.corpus.layout says. Columns are parted by the delimiter, by default by TABs, or where a line has none
by spaces. A line whose word is -DOCSTART- ends a sentence like a blank one; a comment belongs to no sentence.

The scan does 50 MB/s: numpy finds line breaks, and only lines whose first byte leaves it open are looked at one by one.
Parsing does 0.4 million words per second.
"""

import re
from codecs import BOM_UTF8
from collections.abc import Callable

import numpy as np
import pyarrow as pa

from kdcache.corpus.columns import WORDS
from kdcache.corpus.layout import Layout
from kdcache.corpus.settings import CONLLU
from kdcache.errors import RowError

__all__ = ["BETWEEN", "FIELDS", "LONGEST_ROW", "SentenceScanner", "TooLong", "cells_of", "parse_conll", "ragged"]

FIELDS = ("tokens", "tags")
BETWEEN = re.compile(rb"[ \t\r]*|-DOCSTART-(?:[ \t\r].*)?")
MAYBE_BETWEEN = np.isin(np.arange(256), list(b"\n\r\t -"))
SPACES = re.compile(" +")

LONGEST_ROW = 256 << 20
"""Bytes of a row, of any format whose rows are bytes: more of them would not fit the memory once they are parsed."""

WhereLine = Callable[[int, int], str]


class TooLong(Exception):
    """A row of more bytes than LONGEST_ROW. begin: its first byte."""

    def __init__(self, begin: int) -> None:
        super().__init__()
        self.begin = begin


class SentenceScanner:
    """Offsets of sentences in a stream of bytes that begins at a line. comment: how lines begin that are skipped."""

    def __init__(self, comment: str | None = None) -> None:
        self._comment = None if comment is None else comment.encode()
        self._offset = 0
        self._rest = b""
        self._parts: list[bytes] = []
        self._held = 0
        self._between = True

    def feed(self, chunk: bytes) -> np.ndarray:
        """Offsets of the sentences that begin in the lines that end in this chunk."""
        if b"\n" not in chunk:  # a long line is put together once
            self._parts.append(chunk)
            self._held += len(chunk)
            if self._held > LONGEST_ROW:
                raise TooLong(self._offset)
            return np.zeros(0, np.int64)
        lines = b"".join([self._rest, *self._parts, chunk])
        self._parts, self._held = [], 0
        end = lines.rfind(b"\n") + 1
        self._rest = lines[end:]
        if len(self._rest) > LONGEST_ROW:
            raise TooLong(self._offset + end)
        return self._begins(lines[:end])

    def finish(self) -> np.ndarray:
        """The offset of a sentence that begins in a last line with no line break behind it."""
        rest = b"".join([self._rest, *self._parts])
        return self._begins(rest + b"\n") if rest else np.zeros(0, np.int64)

    def _begins(self, lines: bytes) -> np.ndarray:
        data = np.frombuffer(lines, np.uint8)
        ends = np.flatnonzero(data == ord("\n"))
        starts = np.append(0, ends + 1)[:-1]
        if self._offset == 0 and lines.startswith(BOM_UTF8):
            starts[0] = len(BOM_UTF8)
        if self._comment is not None:
            starts, ends = self._without_comments(lines, data, starts, ends)
        between = MAYBE_BETWEEN[data[starts]]
        for line in np.flatnonzero(between).tolist():
            between[line] = BETWEEN.fullmatch(lines, int(starts[line]), int(ends[line])) is not None
        before = np.append(self._between, between)
        self._between = bool(before[-1])
        found = starts[before[:-1] & ~between] + self._offset
        self._offset += len(lines)
        return found

    def _without_comments(
        self, lines: bytes, data: np.ndarray, starts: np.ndarray, ends: np.ndarray
    ) -> tuple[np.ndarray, np.ndarray]:
        assert self._comment is not None
        kept = data[starts] != self._comment[0]
        for line in np.flatnonzero(~kept).tolist():
            kept[line] = not lines.startswith(self._comment, int(starts[line]))
        return starts[kept], ends[kept]


def parse_conll(data: bytes, starts: np.ndarray, layout: Layout, width: int, where: WhereLine) -> pa.Table:
    """`tokens` and `tags` of each sentence. width: columns of a line where the last one is the tag, 0 where that is
    not known. where: (row, line of the row) -> "file.conll:123"."""
    stops = [*starts[1:].tolist(), len(data)]
    tokens, tags = [], []
    for row, (start, stop) in enumerate(zip(starts.tolist(), stops, strict=True)):
        words, labels = _Sentence(layout, width, row, where).read(data[start:stop])
        tokens.append(words)
        tags.append(labels)
    return pa.table({"tokens": pa.array(tokens, WORDS), "tags": pa.array(tags, WORDS)})


class _Sentence:
    def __init__(self, layout: Layout, width: int, row: int, where: WhereLine) -> None:
        self._layout, self._width = layout, width
        self._row, self._where = row, where
        self._comment = None if layout.comment is None else layout.comment.encode()
        self._word = layout.place_of(layout.word)
        self._tag = None if layout.tag is None else layout.place_of(layout.tag)

    def read(self, data: bytes) -> tuple[list[str], list[str | None] | None]:
        lines = data.split(b"\n")
        if self._comment is None:
            while lines and BETWEEN.fullmatch(lines[-1]):
                lines.pop()
        words: list[str] = []
        tags: list[str | None] = []
        numbers: list[int] = []
        for number, line in enumerate(lines):
            if self._comment is not None and (line.startswith(self._comment) or BETWEEN.fullmatch(line)):
                continue
            cells = cells_of(self._decoded(line, number), self._layout)
            if self._layout.conllu and _stands_for_no_word(cells[0]):
                continue
            word, tag = self._picked(cells, number)
            words.append(word)
            tags.append(tag)
            numbers.append(number)
        if any(tags) and None in tags:
            number = numbers[tags.index(None)]
            hint = "; for comment lines set corpus.comment: '#'" if lines[number].startswith(b"#") else ""
            raise self._fault(
                number, f"has no tag where its sentence has others, expected a word, a TAB and its tag{hint}"
            )
        unsaid = self._layout.tag in ("upos", "xpos", "deprel") and {*tags} == {"_"}
        return words, tags if any(tags) and not unsaid else None

    def _decoded(self, line: bytes, number: int) -> str:
        try:
            return line.decode("utf-8")
        except UnicodeDecodeError as error:
            what = f"is not UTF-8: {error.reason} at byte {error.start} of the line"
            raise self._fault(number, what) from None

    def _fault(self, number: int, what: str) -> RowError:
        """number: of the line in the row."""
        return RowError(lambda row: self._where(row, number), self._row, f" {what}")

    def _picked(self, cells: list[str], number: int) -> tuple[str, str | None]:
        """The word of a line and its tag, None where it has none."""
        layout, count = self._layout, len(cells)
        if layout.conllu and count != len(CONLLU):
            raise self._fault(number, f"has {count} columns, expected the {len(CONLLU)} of CoNLL-U, parted by TABs")
        if layout.tag == "tags" and count > 1 and self._width not in (0, count):
            raise self._fault(number, ragged(cells[0], count, self._width))
        if not -count <= self._word < count:
            raise self._fault(number, f"has {count} columns, expected a word in column {layout.word}: see tokens_field")
        word = cells[self._word]
        if not word:
            raise self._fault(number, "begins with white space, expected a word, a TAB and its tag")
        if self._tag is None or not -count <= self._tag < count or (layout.tag == "tags" and count == 1):
            return word, None
        return word, cells[self._tag] or None


def cells_of(line: str, layout: Layout) -> list[str]:
    """What stands in the columns of a line."""
    if layout.delimiter not in (None, " "):
        return line.rstrip(" \r").split(layout.delimiter)
    line = line.rstrip(" \t\r")
    return line.split("\t") if layout.delimiter is None and "\t" in line else SPACES.split(line)


def _stands_for_no_word(number: str) -> bool:
    """The numbers of CoNLL-U's ranges and empty nodes."""
    return "-" in number or "." in number


def ragged(first: str, count: int, width: int) -> str:
    """What is wrong with a line of another number of columns, where the tag is in the last."""
    if first.startswith("#"):
        return (
            f"begins with # and has {count} columns where other lines have {width}; if such lines are "
            "comments, set corpus.comment: '#'"
        )
    return (
        f"has {count} columns where other lines have {width}, expected a word first and its tag last; set "
        "corpus.tokens_field and corpus.tags_field to the numbers of their columns, counted from 1"
    )
