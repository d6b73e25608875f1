"""The text of a commit record, read without a parser where it is a plain one: 4 µs where JSON and its checks take 70.

A pattern takes the one canonical text of a record without rows left out, whose notes, score and `made_under` are flat,
and what `CommitRecord` checks of its values is checked here too. Whatever is not such a text, sound or not, gives None
and is for the parser to read: nothing is accepted here that `parse` would refuse, nor read otherwise.
"""

import re
from itertools import pairwise
from typing import NamedTuple

__all__ = ["PlainRecord", "read_plain"]

NUMBER = rb"(0|[1-9][0-9]{0,13})"
"""Below 2⁴⁸, which no count reaches."""
WHOLE = rb"(?:0|-?[1-9][0-9]{0,17})"
DIGEST = rb'"([0-9a-f]{64})"'
LINE = rb'"(?:0|[1-9][0-9]{0,13}) (?:0|[1-9][0-9]{0,13}) [0-9a-f]{64}(?: (?:0|[1-9][0-9]{0,13})){4}"'
PLACE = rb'"(?:0|[1-9][0-9]{0,13}) (?:0|[1-9][0-9]{0,13}) [0-9a-f]{64}"'
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
    size, blocks, bytes_, documents, entries, examples, file, header, made_under, *others = found.groups(b"")
    notes, positions, score, sha256, source, tokens, unit = others
    counts = (int(examples), int(tokens), int(documents), int(positions), int(entries), int(bytes_))
    block_examples = int(size)
    if not 1 <= block_examples <= MOST_EXAMPLES or not _blocks_fit(blocks, block_examples, counts):
        return None
    if notes == b"{}":
        notes = b""
    if (notes and not _in_order(notes)) or (score and not _in_order(score)):
        return None
    if made_under and not _in_order(made_under):
        return None
    texts = (file.decode(), counts, block_examples, sha256.decode(), source.decode(), header.decode())
    return PlainRecord(int(unit), *texts, notes, score, made_under)


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
    for start, size, *own in lines:
        if int(start) < end:
            return False
        end = int(start) + int(size)
        tokens += int(own[0])
        documents += int(own[1])
        positions += int(own[2])
        entries += int(own[3])
    return end <= file_bytes and [tokens, documents, positions, entries] == sums
