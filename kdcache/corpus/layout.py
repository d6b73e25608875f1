"""Layout: how the bytes of a file are parted into rows and columns, from the settings and the file's name.

The settings name the columns of CoNLL files, for words and tags, in one of three ways:

tokens, tags  the first column and the last one: a word and its tag
2, -1         by number, counted from 1, or from the end
form, upos    by the standard names of CoNLL-U. These, or a name that ends in .conllu, say that the file is CoNLL-U:
              ten columns parted by TABs, comments after #, and lines that stand for no word of their own (the range
              1-2 of a contraction, the empty node 1.1), which are left out
"""

from dataclasses import dataclass, replace
from typing import Self

from kdcache.corpus.settings import CONLLU, CorpusConfig

__all__ = ["COMPRESSED", "Layout", "plain_name"]

COMPRESSED = (".gz", ".bz2", ".xz", ".zst")
TAB_SEPARATED = (".tsv", ".tab")


@dataclass(frozen=True)
class Layout:
    """delimiter: what parts columns; of conll None for TABs or else spaces. comment: how lines begin that are none of
    the rows. quotes: whether quotes hold a CSV's values together. columns: of a CSV without a header. word, tag:
    columns of conll. conllu: whether the file is that."""

    format: str
    delimiter: str | None = None
    comment: str | None = None
    quotes: bool = True
    columns: tuple[str, ...] | None = None
    word: str = "tokens"
    tag: str | None = "tags"
    conllu: bool = False

    @classmethod
    def of(cls, config: CorpusConfig, name: str) -> Self:
        """The layout of the file of this name."""
        name = plain_name(name)
        if config.format == "csv":
            delimiter = config.delimiter or ("\t" if name.endswith(TAB_SEPARATED) else ",")
            return cls("csv", delimiter, quotes=config.quotes, columns=config.columns)
        if config.format != "conll":
            return cls(config.format)
        word, tag = config.tokens_field or "tokens", config.tags_field
        layout = cls("conll", config.delimiter, config.comment, word=word, tag=tag)
        if not (name.endswith(".conllu") or {word, tag} & {*CONLLU}):
            return layout
        word = "form" if word == "tokens" else word
        return replace(layout, delimiter="\t", comment=config.comment or "#", word=word, conllu=True)

    def place_of(self, column: str) -> int:
        """Index of a column of conll in a line's cells, from the end where it is negative."""
        if column in CONLLU:
            return CONLLU.index(column)
        if column in ("tokens", "tags"):
            return 0 if column == "tokens" else -1
        number = int(column)
        return number - 1 if number > 0 else number


def plain_name(name: str) -> str:
    """A file's name in lower case, without the suffix of its compression."""
    name = name.lower()
    return next((name.removesuffix(suffix) for suffix in COMPRESSED if name.endswith(suffix)), name)
