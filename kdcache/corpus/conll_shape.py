"""What a CoNLL file looks like at its beginning: refuses what its words and tags cannot be read from.

Without settings the first column is the word and the last its tag. CoNLL-U, a first column of running numbers, comment
lines and lines of differing length would give words such as 1 and #, and tags such as _, and no later check would see
it. Only the first 64 KiB are looked at; of the rest a line of another length is found when its row is read.
"""

import re
from codecs import BOM_UTF8
from collections import Counter

from kdcache.corpus.conll import BETWEEN, cells_of, ragged
from kdcache.corpus.layout import Layout
from kdcache.corpus.settings import CONLLU
from kdcache.errors import CorpusError

__all__ = ["check_shape"]

LOOKED_AT = 64 << 10
NO_WORD = re.compile(r"\d+[-.]\d+")
NOT_COUNTED = re.compile(r"#.*|\d+[-.]\d+")
BIO = re.compile(r"O|[BI]-\S+")
SIGNS = {",": "comma", ";": "semicolon", "|": "'|'"}
Line = tuple[int, list[str]]


def check_shape(name: str, layout: Layout, begin: bytes, whole: bool) -> int:
    """begin: the file's first bytes, all of them if it is `whole`; 64 KiB are looked at.

    Returns the columns of a line with a tag, 0 where that is not known or does not matter. Raises CorpusError naming
    file and line.
    """
    lines = begin[:LOOKED_AT].removeprefix(BOM_UTF8).split(b"\n")
    sentences = _sentences(lines if whole and len(begin) <= LOOKED_AT else lines[:-1], layout)
    numbered = _numbered(sentences)
    wide = numbered and all(len(cells) == len(CONLLU) for _, cells in numbered)
    skips = numbered and any(NO_WORD.fullmatch(cells[0]) for sentence in sentences for _, cells in sentence)
    if (layout.conllu and layout.tag == "tags") or (not layout.conllu and wide and (skips or layout.tag == "tags")):
        others = ", ".join(column for column in CONLLU[2:] if column != "upos")
        raise CorpusError(
            f"{name} is CoNLL-U, whose last column is no tag; set corpus.tags_field: upos, or another of {others}"
        )
    if layout.word == "tokens" and numbered:
        raise CorpusError(
            f"{name}:{numbered[0][0]} begins with a running number, expected a word; set corpus.tokens_field: 2, and "
            "corpus.tags_field to the number of the tags' column, counted from 1"
        )
    lines_of_words = [line for sentence in sentences for line in sentence]
    _check_order(name, layout, lines_of_words)
    return _width(name, layout, lines_of_words)


def _sentences(lines: list[bytes], layout: Layout) -> list[list[Line]]:
    """Number and cells of each line, sentence by sentence."""
    comment = None if layout.comment is None else layout.comment.encode()
    sentences: list[list[Line]] = [[]]
    for number, line in enumerate(lines, 1):
        if BETWEEN.fullmatch(line):
            sentences.append([])
        elif comment is None or not line.startswith(comment):
            sentences[-1].append((number, cells_of(line.decode("utf-8", "replace"), layout)))
    return [sentence for sentence in sentences if sentence]


def _width(name: str, layout: Layout, lines: list[Line]) -> int:
    """The usual number of columns of a line with a tag, where the tag is in the last."""
    usual = Counter(len(cells) for _, cells in lines).most_common(1)
    tagged = Counter(len(cells) for _, cells in lines if len(cells) > 1).most_common(1)
    words = {len(cells) for _, cells in lines if not cells[0].startswith("#")}
    for number, cells in lines:
        count = len(cells)
        if cells[0].startswith("#") and count not in (1, usual[0][0], *words):
            raise CorpusError(f"{name}:{number} {ragged(cells[0], count, usual[0][0])}")
        if layout.tag == "tags" and count > 1 and count != tagged[0][0]:
            raise CorpusError(f"{name}:{number} {ragged(cells[0], count, tagged[0][0])}")
    if layout.tag not in (None, "tags") and lines and not layout.conllu:
        most, at = max(words, default=0), layout.place_of(layout.tag)
        if not -most <= at < most:
            raise CorpusError(f"{name} has {most} columns, expected tags in column {layout.tag} (corpus.tags_field)")
    return tagged[0][0] if tagged and layout.tag == "tags" else 0


def _check_order(name: str, layout: Layout, lines: list[Line]) -> None:
    """Raises CorpusError where the default reading finds tags first, or one column that a sign parts into several."""
    if layout.word != "tokens" or layout.tag != "tags" or len(lines) < 2:
        return
    first, last = [cells[0] for _, cells in lines], [cells[-1] for _, cells in lines]
    if all(BIO.fullmatch(cell) for cell in first) and not all(BIO.fullmatch(cell) for cell in last):
        raise CorpusError(
            f"{name}:{lines[0][0]} begins with the tag {first[0]}, as all lines do, expected a word; set "
            "corpus.tokens_field: 2 and corpus.tags_field: 1"
        )
    sign = next((sign for sign in SIGNS if all(len(cells) == 1 and sign in cells[0] for _, cells in lines)), None)
    if sign is not None and layout.delimiter is None:
        raise CorpusError(
            f"{name}:{lines[0][0]} has one column, {first[0]!r}, expected a word and its tag; set corpus.delimiter: "
            f"{SIGNS[sign]}"
        )


def _numbered(sentences: list[list[Line]]) -> list[Line]:
    """The lines of words, where in every sentence the first column counts them, from 0 or 1; otherwise none.

    What may be comments and CoNLL-U's ranges and empty nodes are none of them.
    """
    kept = [
        [(number, cells) for number, cells in sentence if len(cells) > 1 and not NOT_COUNTED.fullmatch(cells[0])]
        for sentence in sentences
    ]
    columns = [[cells[0] for _, cells in sentence] for sentence in kept if sentence]
    counts = all(
        column in ([str(i) for i in range(first, first + len(column))] for first in (0, 1)) for column in columns
    )
    return [line for sentence in kept for line in sentence] if counts and any(len(c) > 1 for c in columns) else []
