"""The files that a teacher is loaded from: their digests, and whether they are still what was digested.

Pinned are the weights, config.json, the list of the weights' files where there is one, and all Python files where the
teacher may bring code of its own. The tokenizer is pinned by what it does (TokenizerPin). generation_config.json and
whatever else lies in the folder is not: it changes no logit.

Weights take as long as reading them does, about 1 GB/s. Afterwards a look at the file system (size, times, inode) tells
that nothing changed; a file that it calls another one is digested again, so that a copy of the same bytes may take its
place.
"""

import hashlib
import os
import socket
from collections.abc import Mapping
from pathlib import Path
from typing import Self

from kdcache.errors import TeacherError

__all__ = ["TeacherFiles", "check_copy", "weights_digest"]

WEIGHTS = ".safetensors"
OTHERS = ("config.json", "*.safetensors.index.json")
CODE = "**/*.py"

Seen = tuple[int, int, int, int, int]


class TeacherFiles:
    """Digested when it is made.

    Args:
        folder: The teacher's.
        code: Whether it may bring Python code of its own.

    Raises:
        TeacherError: A file changed while it was read.

    Attributes:
        sha256: File, relative to the folder -> its digest.
    """

    def __init__(self, folder: str | os.PathLike[str], *, code: bool) -> None:
        self._folder, self._code = Path(folder), code
        self._seen: dict[str, Seen] = {}
        self.sha256: dict[str, str] = {}
        for name in self._names():
            self._seen[name], self.sha256[name] = self._digest(name)

    @property
    def weights_sha256(self) -> str:
        """Over each weights file's name and digest."""
        return _weights_sha256(self.sha256)

    @property
    def others(self) -> dict[str, str]:
        """The digests of the files that are no weights."""
        return {name: sha256 for name, sha256 in self.sha256.items() if not name.endswith(WEIGHTS)}

    def check_unchanged(self) -> Self:
        """Raises TeacherError where the folder no longer holds what was digested."""
        names = self._names()
        if lost := sorted(self.sha256.keys() ^ set(names)):
            raise self._changed(lost[0], "was added" if lost[0] in names else "was removed")
        for name in names:
            if self._stat(name) != self._seen[name]:
                seen, sha256 = self._digest(name)
                if sha256 != self.sha256[name]:
                    raise self._changed(name, f"has sha256 {sha256[:12]}…, expected {self.sha256[name][:12]}…")
                self._seen[name] = seen
        return self

    @property
    def marks(self) -> dict[str, tuple[Seen, str]]:
        """File -> what the file system says of it, and its digest: for `check_copy`."""
        return {name: (self._seen[name], sha256) for name, sha256 in self.sha256.items()}

    def _names(self) -> list[str]:
        patterns = (f"*{WEIGHTS}", *OTHERS, *([CODE] if self._code else []))
        found = {path for pattern in patterns for path in self._folder.glob(pattern) if path.is_file()}
        return sorted(path.relative_to(self._folder).as_posix() for path in found)

    def _digest(self, name: str) -> tuple[Seen, str]:
        before = self._stat(name)
        with (self._folder / name).open("rb") as file:
            sha256 = hashlib.file_digest(file, "sha256").hexdigest()
        if self._stat(name) != before:
            raise self._changed(name, "was written while it was read")
        return before, sha256

    def _stat(self, name: str) -> Seen:
        try:
            return _seen(self._folder / name)
        except FileNotFoundError:
            raise self._changed(name, "was removed") from None

    def _changed(self, name: str, how: str) -> TeacherError:
        return TeacherError(
            f"{self._folder / name} changed while the teacher was being used: it {how}; put it back as it was and run "
            "the same command again; finished shards are kept"
        )


def _seen(path: Path) -> Seen:
    found = path.stat()
    return found.st_dev, found.st_ino, found.st_size, found.st_mtime_ns, found.st_ctime_ns


def check_copy(folder: str | os.PathLike[str], marks: Mapping[str, tuple[Seen, str]]) -> None:
    """Compare a folder, perhaps on another machine, with one that was digested.

    Files that the file system calls the same ones are not read again.

    Args:
        folder: The teacher's here.
        marks: Of the other.

    Raises:
        TeacherError: It holds other files.
    """
    for name, (seen, sha256) in marks.items():
        path = Path(folder) / name
        found = None if path.is_file() else "is not there"
        if found is None and _seen(path) != tuple(seen):
            with path.open("rb") as file:
                here = hashlib.file_digest(file, "sha256").hexdigest()
            found = None if here == sha256 else f"has sha256 {here[:12]}…, expected {sha256[:12]}…"
        if found is not None:
            raise TeacherError(
                f"{path} on {socket.gethostname()} {found}: every rank reads its part of the teacher from its own "
                "machine, expected the same files on all of them"
            )


def weights_digest(folder: str | os.PathLike[str]) -> str:
    """sha256 over each safetensors file's name and sha256. Reads every byte once, at about 1 GB/s."""
    digests = {}
    for path in Path(folder).glob(f"*{WEIGHTS}"):
        with path.open("rb") as file:
            digests[path.name] = hashlib.file_digest(file, "sha256").hexdigest()
    return _weights_sha256(digests)


def _weights_sha256(digests: dict[str, str]) -> str:
    lines = (f"{name}:{digests[name]}\n" for name in sorted(digests) if name.endswith(WEIGHTS))
    return hashlib.sha256("".join(lines).encode()).hexdigest()
