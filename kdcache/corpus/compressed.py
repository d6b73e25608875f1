"""Compressed files: a plain copy, made once, because rows are read by where they are.

A file whose name ends in .gz, .bz2, .xz or .zst is written out beside the index of the corpus, which is removed when
the dump is finished, or into a temporary folder where there is no index. Its rows, size and digest are those of the
copy. Ranks that find none each make one; the first that is done serves all. Plain text comes out of zstd at 0.7 GB/s,
of gzip at 0.24, of xz at 0.07, of bzip2 at 0.01; the copy takes the corpus' plain size on disk. Not for a corpus that
does not fit there: decompress it where it does, or keep it as Parquet, which is compressed and read in parts.
"""

import bz2
import gzip
import hashlib
import json
import lzma
import zlib
from collections.abc import Callable
from dataclasses import replace
from pathlib import Path
from typing import Any

from kdcache.corpus.files import CorpusFile, explained
from kdcache.disk import whole_file
from kdcache.errors import CorpusError, one_line
from kdcache.remote import RemoteError

__all__ = ["COMMANDS", "plain_copy"]

CHUNK = 1 << 20
LEAST_SUSPECT, MOST_TIMES = 256 << 20, 200
"""A copy of more bytes, and of more times the compressed ones, is refused: text has 3 to 30 times, logs up to 100."""
COMMANDS = {".gz": "gzip -t", ".bz2": "bzip2 -t", ".xz": "xz -t", ".zst": "zstd -t"}
"""What tells on a command line whether a compressed file is whole."""


def _zstd(stream: Any) -> Any:
    import pyarrow as pa

    return pa.CompressedInputStream(stream, "zstd")


READERS: dict[str, Callable[[Any], Any]] = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open, ".zst": _zstd}


def plain_copy(file: CorpusFile, folder: Path) -> CorpusFile:
    """The file itself, or where its name says that it is compressed its copy in `folder`.

    Raises CorpusError for a file that is damaged or not what its name says, and where there is no room.
    """
    suffix = next((suffix for suffix in READERS if file.name.lower().endswith(suffix)), None)
    if suffix is None:
        return file
    from fsspec.implementations.local import LocalFileSystem

    key = hashlib.sha256(json.dumps([file.url, file.size, file.key]).encode()).hexdigest()
    copy = folder / f"{key[:32]}.plain"
    if not copy.exists():
        _write(file, suffix, copy)
    return replace(file, fs=LocalFileSystem(), path=str(copy), size=copy.stat().st_size)


def _copy(plain: Any, target: Any, file: CorpusFile) -> None:
    """Raises CorpusError for a file that decompresses to more than any text does: it would fill the disk."""
    most, size = max(LEAST_SUSPECT, MOST_TIMES * file.size), 0
    while chunk := plain.read(CHUNK):
        size += len(chunk)
        if size > most:
            raise CorpusError(
                f"{file.name} of {file.size:,} bytes decompresses to more than {most:,}, expected at most "
                f"{MOST_TIMES} times its size: if it is to be so, decompress it yourself"
            )
        target.write(chunk)


def _write(file: CorpusFile, suffix: str, copy: Path) -> None:
    with explained(file.name), whole_file(copy) as target, file.open() as source:
        try:
            _copy(READERS[suffix](source), target, file)
        except (EOFError, zlib.error, lzma.LZMAError, OSError) as error:
            if isinstance(error, RemoteError) or (isinstance(error, OSError) and error.errno is not None):
                raise
            raise CorpusError(
                f"{file.name} does not decompress: {one_line(error)}; expected a whole {suffix} file: see "
                f"{COMMANDS[suffix]} {file.name}"
            ) from error
        file.check_unchanged()
