"""What DeepSpeed writes and reads checkpoint files with: digests and fsync on the way out, no code on the way in.

SHA-256 runs in a thread of its own over the bytes that are being written meanwhile; both let go of Python's lock, so
the digest costs what is left of it after the writing (tests/bench/checkpoints.py). A file that cannot be written is
remembered and not raised: the other ranks wait for this one in DeepSpeed's barriers, and would wait for ever.

Imports DeepSpeed at its head: import this inside functions.
"""

import hashlib
import os
from collections.abc import Iterator
from concurrent.futures import ThreadPoolExecutor
from contextlib import contextmanager
from pathlib import Path
from typing import IO, Any, BinaryIO, cast

import torch
from deepspeed.runtime.checkpoint_engine.checkpoint_engine import CheckpointCommitInfo, CheckpointEngine

from kdcache.errors import one_line
from kdcache.train.sealed import FileSeal

__all__ = ["CheckpointFiles", "DigestedFile", "with_our_files"]

SMALL = 1 << 16
"""Bytes that are digested faster than a thread is told to."""


class DigestedFile:
    """A file that torch.save writes to, and its digest. `error` is the first that a write met."""

    def __init__(self, file: BinaryIO, pool: ThreadPoolExecutor) -> None:
        self.file, self.pool = file, pool
        self.sha256 = hashlib.sha256()
        self.bytes = 0
        self.error: OSError | None = None

    def write(self, data: Any) -> int:
        view = memoryview(data).cast("B")
        if len(view) < SMALL:
            self.sha256.update(view)
            self._write(view)
        else:
            digested = self.pool.submit(self.sha256.update, view)
            try:
                self._write(view)
            finally:
                digested.result()
        self.bytes += len(view)
        return len(view)

    def _write(self, view: memoryview) -> None:
        try:
            self.file.write(view)
        except OSError as error:
            self.error = self.error or error
            raise

    def flush(self) -> None:
        self.file.flush()


class CheckpointFiles(CheckpointEngine):
    """Writes this rank's files. `seals`: of those that are on the disk, by path. `fault`: why one is not, if so."""

    def __init__(self) -> None:
        super().__init__()
        self.name = "kdcache"
        self.seals: dict[Path, FileSeal] = {}
        self.fault: str | None = None

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
            with open(path, "wb") as file, ThreadPoolExecutor(1) as pool:
                digested = DigestedFile(file, pool)
                torch.save(state_dict, cast(IO[bytes], digested))
                file.flush()
                os.fsync(file.fileno())
            self.seals[Path(path)] = FileSeal(bytes=digested.bytes, sha256=digested.sha256.hexdigest())
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
