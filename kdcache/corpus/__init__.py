"""The corpus: rows of text in files anywhere fsspec reaches, cut into work units.

files     paths, globs and folders -> a sorted list of files
index     what is known of a file before its rows are read: digest, rows, offsets; kept in a folder
lines     index and ranges of JSONL, CSV and plain text
parse     bytes of those -> tables
columnar  index and ranges of Parquet and Arrow IPC
corpus    open_corpus, Corpus: work units, digests, places for messages

A corpus knows nothing of tokens.
"""

from kdcache.corpus.corpus import Corpus, open_corpus

__all__ = ["Corpus", "open_corpus"]
