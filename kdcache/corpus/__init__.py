"""The corpus: rows of text in files anywhere fsspec reaches, cut into work units. It knows nothing of tokens.

settings       CorpusConfig, the section `corpus` of a settings file
files          paths, globs and folders -> a sorted list of files
hub            the files of a dataset of Hugging Face's, by its card
compressed     plain copies of .gz, .bz2, .xz and .zst files
index          what is known of a file before its rows are read (digest, rows, offsets), kept in a folder
layout         how a file's rows are laid out: its columns and delimiters, by its name and the settings
lines          the index and the ranges of rows of JSONL, CSV, CoNLL and plain text
parse          bytes of JSONL, CSV and plain text -> tables
conll          CoNLL files: sentences of words and tags, one word per line
conll_shape    refuses files that are not CoNLL, and says what they are
parquet_footer  what a Parquet file's footer says, read by another process, which may die of it
columnar       the index and the ranges of rows of Parquet and Arrow IPC
column         Column: a column that a task reads
columns        the type that each kind of column comes in, and what is refused
class_names    names of the integers in a column of labels
split          finds the bad rows among many by halving
cutting        how many rows a unit has
corpus         open_corpus and Corpus: work units, their digests, places of rows for messages

A new file format is a class of files in `lines` (or `columnar`), a parser in `parse`, and a word in `settings`.
"""

from importlib import import_module
from typing import TYPE_CHECKING, Any

if TYPE_CHECKING:
    from kdcache.corpus.column import Column
    from kdcache.corpus.corpus import Corpus, UnitRows, open_corpus

__all__ = ["Column", "Corpus", "UnitRows", "open_corpus"]


def __getattr__(name: str) -> Any:
    """On first use: reading a corpus imports pyarrow, and a task is known without it."""
    if name not in __all__:
        raise AttributeError(f"module 'kdcache.corpus' has no attribute {name!r}")
    return getattr(import_module(f"kdcache.corpus.{'column' if name == 'Column' else 'corpus'}"), name)
