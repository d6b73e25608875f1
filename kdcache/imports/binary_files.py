"""Local files that are read by ranges: opened, measured, read with their place, and compared at the end."""

import hashlib
import json
import os
from collections.abc import Iterable, Sequence
from pathlib import Path
from typing import Any

from kdcache.config.paths import check_local
from kdcache.corpus.files import changed, explained
from kdcache.errors import CorpusError

__all__ = ["BinaryFile", "find_local", "pin_of"]

CHUNK = 4 << 20


class BinaryFile:
    """A local file as it was when it was opened."""

    def __init__(self, path: Path) -> None:
        self.path, self.name = path, path.name
        with explained(str(path)):
            self._stat = path.stat()
        self.size = self._stat.st_size

    def read(self, start: int, stop: int, what: str = "") -> bytes:
        """These bytes. Raises CorpusError where the file ends before them. what: what they hold, for the message."""
        with explained(str(self.path)), open(self.path, "rb") as file:
            file.seek(start)
            data = file.read(stop - start)
        if len(data) != stop - start:
            raise CorpusError(
                f"{self.name} ends at byte {start + len(data):,}{f', in {what}' if what else ''}, expected "
                f"{stop:,} or more: it was cut short; copy it again, or capture again"
            )
        return data

    def digest(self, start: int, stop: int) -> str:
        """sha256 of a range, a few megabytes in memory at a time."""
        digest = hashlib.sha256()
        for at in range(start, stop, CHUNK):
            digest.update(self.read(at, min(at + CHUNK, stop)))
        return digest.hexdigest()

    def check_unchanged(self) -> None:
        with explained(str(self.path)):
            now = self.path.stat()
        if (now.st_size, now.st_mtime_ns, now.st_ino) != (self.size, self._stat.st_mtime_ns, self._stat.st_ino):
            raise changed(self.name, "it is not the file that was opened")


def find_local(paths: Sequence[str], suffix: str | None = None) -> list[BinaryFile]:
    """The files, in the order given; of a folder those with the suffix, by name.

    Raises CorpusError for a path that is not there, or a folder without such a file.
    """
    found: list[Path] = []
    for text in paths:
        path = Path(check_local(text))
        if path.is_dir():
            inside = sorted(one for one in path.iterdir() if suffix is not None and one.name.endswith(suffix))
            if not inside:
                raise CorpusError(f"{text} has no {suffix or ''} file in it, expected at least one", missing_path=True)
            found += inside
        elif path.is_file():
            found.append(path)
        else:
            raise CorpusError(f"got {text}, which is no file, expected one of a capture", missing_path=True)
    return [BinaryFile(path) for path in dict.fromkeys(Path(os.path.abspath(one)) for one in found)]


def pin_of(files: Sequence[BinaryFile], units: Iterable[str], rows: int) -> dict[str, Any]:
    """sha256 of the units' digests in order, and totals."""
    digest = hashlib.sha256(json.dumps([*units]).encode()).hexdigest()
    return {"sha256": digest, "files": len(files), "rows": rows, "bytes": sum(file.size for file in files)}
