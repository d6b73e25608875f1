"""The corpus: rows of text in files anywhere fsspec reaches, cut into work units.

settings  CorpusConfig: where the text is
files     paths, globs and folders -> a sorted list of files
compressed    plain copies of .gz, .bz2, .xz and .zst files
index     what is known of a file before its rows are read: digest, rows, offsets; kept in a folder
layout    which columns, parted by what, of a file by its name and the settings
lines     index and ranges of JSONL, CSV, CoNLL and plain text
conll     sentences of words and tags, a word a line; conll_shape refuses what is none
parse     bytes of JSONL, CSV and text -> tables
columnar  index and ranges of Parquet and Arrow IPC
columns   Column: what a task reads, and the type it comes in
class_names   names of the integers in a column of labels
split     the bad rows among many, found by halving
corpus    open_corpus, Corpus: work units, digests, places for messages

A corpus knows nothing of tokens.
"""

from kdcache.corpus.columns import Column
from kdcache.corpus.corpus import Corpus, UnitRows, open_corpus

__all__ = ["Column", "Corpus", "UnitRows", "open_corpus"]
