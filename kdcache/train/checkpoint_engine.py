"""What DeepSpeed writes and reads checkpoint files with: digests and fsync on the way out, no code on the way in.

SHA-256 runs in a thread of its own that follows the writing through the page cache, and goes on while the disk is
waited for and while the next file is written; it lets go of Python's lock. It takes the place of torch's own CRC32,
which would cost half as much again (tests/bench/checkpoints.py). A file that cannot be written is remembered and not
raised: the other ranks wait for this one in DeepSpeed's barriers, and would wait for ever.

Imports DeepSpeed at its head: import this inside functions.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import Future, ThreadPoolExecutor
from contextlib import contextmanager
from io import FileIO
from pathlib import Path
from queue import SimpleQueue
from typing import IO, Any, cast

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine

from kdcache.errors import one_line
from kdcache.train.sealed import FileSeal

__all__ = ["CheckpointFiles", "DigestedFile", "with_our_files"]

PIECE = 4 << 20
"""Bytes that are digested at a time."""


class DigestedFile:
    """A file that torch.save writes to, and its digest. `error` is the first that a write met."""

    def __init__(self, file: FileIO, pool: ThreadPoolExecutor) -> None:
        self.file = file
        self.error: OSError | None = None
        self._written: SimpleQueue[int | None] = SimpleQueue()
        self._size = 0
        self.seal = pool.submit(self._follow, Path(file.name))

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        try:
            self._write(view)
        except OSError as error:
            self.error = self.error or error
            raise
        self._size += len(view)
        self._written.put(self._size)
        return len(view)

    def _write(self, view: memoryview) -> None:
        while view:
            view = view[self.file.write(view) :]

    def flush(self) -> None:
        """Nothing is held back."""

    def end(self) -> None:
        """No more is written; the digest will come."""
        self._written.put(None)

    def _follow(self, path: Path) -> FileSeal:
        sha256, digested = hashlib.sha256(), 0
        with open(path, "rb", buffering=0) as file:
            while (size := self._written.get()) is not None:
                while digested < size and (piece := file.read(min(PIECE, size - digested))):
                    sha256.update(piece)
                    digested += len(piece)
        return FileSeal(bytes=digested, sha256=sha256.hexdigest())


class CheckpointFiles(CheckpointEngine):
    """Writes this rank's files. `fault`: why one cannot be written, if so."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "kdcache"
        self.fault: str | None = None
        self._pool = ThreadPoolExecutor(2, "digest")
        self._seals: dict[Path, Future[FileSeal]] = {}

    def seals(self) -> dict[Path, FileSeal]:
        """Those of the files that are on the disk, by path; waits for the last of them."""
        found = {}
        try:
            found = {path: seal.result() for path, seal in self._seals.items()}
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
            self._seals[Path(path)] = digested.seal
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
