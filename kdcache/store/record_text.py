"""The text of a commit record, read without a parser where it is a plain one: 4 µs where JSON and its checks take 70.

A pattern takes the one canonical text of a record without rows left out, whose notes, score and `made_under` are flat,
and what `CommitRecord` checks of its values is checked here too. Whatever is not such a text, sound or not, gives None
and is for the parser to read: nothing is accepted here that `parse` would refuse, nor read otherwise.
"""

import re
from itertools import pairwise
from typing import NamedTuple

__all__ = ["PlainRecord", "read_plain"]

NUMBER = rb"(0|[1-9][0-9]{0,14})"
WHOLE = rb"(?:0|-?[1-9][0-9]{0,17})"
DIGEST = rb'"([0-9a-f]{64})"'
LINE = rb'"(?:0|[1-9][0-9]{0,14}) (?:0|[1-9][0-9]{0,14}) [0-9a-f]{64}(?: (?:0|[1-9][0-9]{0,14})){4}"'
PLACE = rb'"(?:0|[1-9][0-9]{0,14}) (?:0|[1-9][0-9]{0,14}) [0-9a-f]{64}"'
NAME = rb"[a-z][a-z_]*"


def _flat(value: bytes) -> bytes:
    """Of a mapping from names to such values."""
    return rb'\{\n(?:  "%b": %b,\n)*  "%b": %b\n \}' % (NAME, value, NAME, value)


RECORD = re.compile(
    rb'\{\n "block_examples": %b,\n "blocks": \[\n  (%b(?:,\n  %b)*)\n \],\n "bytes": %b,\n "documents": %b,\n'
    rb' "entries": %b,\n "examples": %b,\n "file": "([A-Za-z0-9_][A-Za-z0-9_.+/-]*)",\n(?: "frame": %b,\n)?'
    rb' "header_sha256": %b,\n(?: "made_under": (%b),\n)? "notes": (\{\}|%b),\n "positions": %b,\n'
    rb'(?: "score": (%b),\n)? "sha256": %b,\n "source_sha256": "([0-9a-f]{64}|)",\n "tokens": %b,\n "unit": %b\n\}\n'
    % (
        *(NUMBER, LINE, LINE, NUMBER, NUMBER, NUMBER, NUMBER, PLACE, DIGEST),
        *(_flat(rb'"[A-Za-z0-9_.,:; -]*"'), _flat(NUMBER.replace(b"(", b"(?:")), NUMBER),
        *(_flat(WHOLE), DIGEST, NUMBER, NUMBER),
    )
)
NAMES = re.compile(rb'\n  "(%b)": ' % NAME)
NUMBERS = re.compile(rb'"(\d+) (\d+) [0-9a-f]{64} (\d+) (\d+) (\d+) (\d+)"')
VALUES = re.compile(rb": (\d+)")
MOST = 1 << 48
MOST_EXAMPLES = 1 << 20


class PlainRecord(NamedTuple):
    """What a plain record says. counts: in the order of table.COUNTS. notes, score, made_under: their JSON, b"" where
    there is none."""

    unit: int
    file: str
    counts: tuple[int, ...]
    block_examples: int
    sha256: str
    source_sha256: str
    header_sha256: str
    notes: bytes
    score: bytes
    made_under: bytes


def read_plain(data: bytes) -> PlainRecord | None:
    """What a commit record says; None where it is not a plain one, sound or not."""
    found = RECORD.fullmatch(data)
    if found is None:
        return None
    (size, blocks, bytes_, documents, entries, examples, file, header, made_under, *others) = found.groups(b"")
    notes, positions, score, sha256, source, tokens, unit = others
    counts = (*map(int, (examples, tokens, documents, positions, entries, bytes_)),)
    block_examples, number = int(size), int(unit)
    if max(number, *counts) >= MOST or not 1 <= block_examples <= MOST_EXAMPLES:
        return None
    if not _blocks_fit(blocks, block_examples, counts):
        return None
    if notes == b"{}":
        notes = b""
    elif not _in_order(notes) or any(int(value) >= MOST for value in VALUES.findall(notes)):
        return None
    if (score and not _in_order(score)) or (made_under and not _in_order(made_under)):
        return None
    texts = (file.decode(), counts, block_examples, sha256.decode(), source.decode(), header.decode())
    return PlainRecord(number, *texts, notes, score, made_under)


def _in_order(text: bytes) -> bool:
    """Whether the names of a mapping are in the order of a canonical text, each once."""
    names = NAMES.findall(text)
    return all(a < b for a, b in pairwise(names))


def _blocks_fit(text: bytes, block_examples: int, counts: tuple[int, ...]) -> bool:
    """What kdcache.store.blocks.blocks_fault asks."""
    lines = NUMBERS.findall(text)
    examples, *sums, file_bytes = counts
    if len(lines) != max(1, -(-examples // block_examples)):
        return False
    end = tokens = documents = positions = entries = 0
    for line in lines:
        start, size, *own = map(int, line)
        if start < end:
            return False
        end = start + size
        tokens, documents, positions, entries = (
            tokens + own[0],
            documents + own[1],
            positions + own[2],
            entries + own[3],
        )
    return end <= file_bytes and [tokens, documents, positions, entries] == sums
