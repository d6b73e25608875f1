"""What DeepSpeed writes and reads checkpoint files with: digests and fsync on the way out, no code on the way in.

SHA-256 runs in threads of their own, piece by piece through the page cache, and goes on while the disk is waited for
and while the next file is written; it lets go of Python's lock. It takes the place of torch's own CRC32, which would
cost half as much again (tests/bench/checkpoints.py). A file that cannot be written is remembered and not raised: the
other ranks wait for this one in DeepSpeed's barriers, and would wait for ever.

Imports DeepSpeed at its head: import this inside functions.
"""

import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from typing import IO, Any, cast

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine

from kdcache.errors import one_line
from kdcache.train.digest import PIECE, digest_of_pieces, piece_digest
from kdcache.train.sealed import FileSeal

__all__ = ["CheckpointFiles", "DigestedFile", "with_our_files"]

STRETCH = 4 << 20
"""Bytes after which the threads may go on: the writing of a large tensor is digested meanwhile."""
THREADS = 2
"""More would take the time from the thread that writes, where there are few cores."""


class DigestedFile:
    """A file that torch.save writes to, and its digest. `error` is the first that a write met."""

    def __init__(self, file: FileIO, pool: ThreadPoolExecutor) -> None:
        self.file = file
        self.error: OSError | None = None
        self._pool, self._path, self._size = pool, Path(file.name), 0
        self._pieces: list[Future[bytes]] = []

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        for start in range(0, len(view), STRETCH):
            part = view[start : start + STRETCH]
            try:
                self._write(part)
            except OSError as error:
                self.error = self.error or error
                raise
            self._size += len(part)
            while self._rest >= PIECE:
                self._digest(PIECE)
        return len(view)

    def _write(self, view: memoryview) -> None:
        while view:
            view = view[self.file.write(view) :]

    def flush(self) -> None:
        """Nothing is held back."""

    def end(self) -> None:
        """No more is written; the digests will come."""
        if self._rest or not self._pieces:
            self._digest(self._rest)

    def seal(self) -> FileSeal:
        """Waits for the last digest. Raises OSError where the file cannot be read."""
        digest = digest_of_pieces(piece.result() for piece in self._pieces)
        return FileSeal(bytes=self._size, digest=digest)

    @property
    def _rest(self) -> int:
        return self._size - len(self._pieces) * PIECE

    def _digest(self, size: int) -> None:
        start = len(self._pieces) * PIECE
        self._pieces.append(self._pool.submit(piece_digest, self._path, start, size))


class CheckpointFiles(CheckpointEngine):
    """Writes this rank's files. `fault`: why one cannot be written, if so."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "kdcache"
        self.fault: str | None = None
        self._pool = ThreadPoolExecutor(THREADS, "digest")
        self._written: dict[Path, DigestedFile] = {}

    def seals(self) -> dict[Path, FileSeal]:
        """Those of the files that are on the disk, by path; waits for the last of them."""
        found = {}
        try:
            found = {path: written.seal() for path, written in self._written.items()}
        except OSError as error:
            self.fault = self.fault or one_line(error)
        self._pool.shutdown()
        return found

    def create(self, info: CheckpointCommitInfo) -> None:
        """Nothing is to be announced."""

    def makedirs(self, path: str, exist_ok: bool = False) -> None:
        try:
            os.makedirs(path, exist_ok=exist_ok)
        except OSError as error:
            self.fault = self.fault or one_line(error)

    def save(self, state_dict: Any, path: str) -> None:
        if self.fault is not None:
            return
        digested = None
        try:
            with open(path, "wb", buffering=0) as file:
                digested = DigestedFile(file, self._pool)
                try:
                    with without_crc32():
                        torch.save(state_dict, cast(IO[bytes], digested))
                finally:
                    digested.end()
                os.fsync(file.fileno())
            self._written[Path(path)] = digested
        except OSError as error:
            self.fault = one_line(error)
        except RuntimeError:  # torch's zip writer, on a file that is not as long as it thinks
            if digested is None or digested.error is None:
                raise
            self.fault = one_line(digested.error)

    def load(self, path: str, map_location: Any = None) -> Any:
        return torch.load(path, map_location=map_location, weights_only=True)

    def commit(self, info: CheckpointCommitInfo) -> bool:
        return True


@contextmanager
def without_crc32() -> Iterator[None]:
    """torch.save writes none; torch.load asks for none."""
    before = torch.serialization.get_crc32_options()
    torch.serialization.set_crc32_options(False)
    try:
        yield
    finally:
        torch.serialization.set_crc32_options(before)


@contextmanager
def with_our_files(engine: Any) -> Iterator[CheckpointFiles]:
    """Inside, the engine saves and loads through these, and copies no script into the folder."""
    ours = CheckpointFiles()
    before = engine.checkpoint_engine
    engine.checkpoint_engine = ours
    engine._copy_recovery_script = lambda path: None
    try:
        yield ours
    finally:
        engine.checkpoint_engine = before
        del engine._copy_recovery_script
