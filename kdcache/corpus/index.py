"""What is known of a corpus file before its rows are read, and the folder that remembers it.

Making an index reads a file once: its sha256 and its row offsets come from the same pass. The folder is a set of
pages, each written once under the digest of its content, so that any number of ranks add to it without a lock and
find what the others made. Like git's index it is keyed by what the file system says of a file (name, size, times)
and is only a hint: a page that is missing, damaged or of another version costs a read of the files it spoke of.
"""

import hashlib
import json
from contextlib import suppress
from dataclasses import asdict, dataclass, field, replace
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.corpus.files import CorpusFile
from kdcache.disk import Disk

__all__ = ["FileIndex", "IndexFolder", "Marks"]

VERSION = 3
MAX_MARKS = 1 << 20


@dataclass(frozen=True)
class FileIndex:
    """One file's index.

    marks: int64. Lines: the byte offset of every stride-th row. Parquet: the first row of each row group.
        Arrow: the first row of each record batch, then the end of the schema and of each batch in bytes.
    header: byte range of a CSV's header. fields: column names, None where rows carry their own.
    column_bytes: decoded bytes of each column where the file tells, None where a row's bytes are the file's.
    line_is_row: row r is on line r + 1 (r + 2 below a header). width: columns of a line of conll whose last one is the
        tag, 0 where that is not known. class_names: of columns of integers, where the file's schema has them.
    blocks: checksums of a remote file's blocks (kdcache/remote.py).
    """

    sha256: str
    rows: int
    marks: np.ndarray
    stride: int = 1
    header: tuple[int, int] = (0, 0)
    fields: tuple[str, ...] | None = None
    column_bytes: dict[str, int] | None = None
    line_is_row: bool = True
    width: int = 0
    class_names: dict[str, list[str]] = field(default_factory=dict)
    blocks: list[int] = field(default_factory=list)


class Marks:
    """Row offsets, thinned by doubling the stride so that a file has at most 2²⁰ of them: 8 MiB."""

    def __init__(self) -> None:
        self.rows = 0
        self.stride = 1
        self._kept: list[np.ndarray] = []
        self._count = 0

    def add(self, offsets: np.ndarray) -> None:
        kept = offsets[-self.rows % self.stride :: self.stride]
        self.rows += len(offsets)
        self._kept.append(kept)
        self._count += len(kept)
        while self._count > MAX_MARKS:
            self._kept = [np.concatenate(self._kept)[::2]]
            self._count = len(self._kept[0])
            self.stride *= 2

    def array(self) -> np.ndarray:
        return np.concatenate([np.zeros(0, np.int64), *self._kept]).astype(np.int64)


class IndexFolder:
    """Indices of files, in memory and, with a folder, on disk; offsets on disk are memory-mapped."""

    def __init__(self, folder: Path | None) -> None:
        self._folder = folder
        self._known: dict[str, FileIndex] = {}
        self._unsaved: dict[str, FileIndex] = {}
        self._pages: set[str] = set()
        self.refresh()

    def __contains__(self, file: CorpusFile) -> bool:
        return self._key(file) in self._known

    def __getitem__(self, file: CorpusFile) -> FileIndex:
        return self._known[self._key(file)]

    def put(self, file: CorpusFile, index: FileIndex) -> None:
        self._known[self._key(file)] = self._unsaved[self._key(file)] = index

    def _key(self, file: CorpusFile) -> str:
        words = [VERSION, asdict(file.layout), file.url, file.size, file.key]
        return hashlib.sha256(json.dumps(words).encode()).hexdigest()

    def refresh(self) -> None:
        """Take in the pages that others wrote since."""
        if self._folder is None:
            return
        with suppress(OSError):
            for path in sorted(self._folder.glob("*.index")):
                if path.stem not in self._pages:
                    self._pages.add(path.stem)
                    self._known.update(_read_page(path))

    def flush(self) -> None:
        """Write a page of what was put since. A folder that cannot be written is no fault: the next run reads again."""
        if self._folder is None or not self._unsaved:
            return
        with suppress(OSError):
            path = _write_page(self._folder, self._unsaved)
            self._pages.add(path.stem)
            self._known.update(_read_page(path))
        self._unsaved = {}


def _write_page(folder: Path, indices: dict[str, FileIndex]) -> Path:
    marks = np.concatenate([index.marks for index in indices.values()])
    ends = np.cumsum([len(index.marks) for index in indices.values()]).tolist()
    files = {
        key: asdict(replace(index, marks=np.zeros(0))) | {"marks": [end - len(index.marks), end]}
        for (key, index), end in zip(indices.items(), ends, strict=True)
    }
    page = {"version": VERSION, "marks_sha256": hashlib.sha256(marks.data).hexdigest(), "files": files}
    data = json.dumps(page, indent=1).encode()
    path = folder / f"{hashlib.sha256(data).hexdigest()[:32]}.index"
    disk = Disk(folder)
    disk.write(path.with_suffix(".marks").name, marks.tobytes())
    disk.write(path.name, data)
    return path


def _read_page(path: Path) -> dict[str, FileIndex]:
    """What a page says; nothing when it is damaged."""
    try:
        data = path.read_bytes()
        page: dict[str, Any] = json.loads(data)
        marks_path = path.with_suffix(".marks")
        marks = np.memmap(marks_path, np.int64, "r") if marks_path.stat().st_size else np.zeros(0, np.int64)
        sound = (
            hashlib.sha256(data).hexdigest()[:32] == path.stem
            and page["version"] == VERSION
            and hashlib.sha256(marks.data).hexdigest() == page["marks_sha256"]
        )
    except (OSError, ValueError, KeyError, TypeError):
        return {}
    return {key: _file_index(entry, marks) for key, entry in page["files"].items()} if sound else {}


def _file_index(entry: dict[str, Any], marks: np.ndarray) -> FileIndex:
    start, stop = entry.pop("marks")
    fields = entry.pop("fields")
    return FileIndex(
        marks=marks[start:stop],
        header=tuple(entry.pop("header")),
        fields=None if fields is None else tuple(fields),
        **entry,
    )
