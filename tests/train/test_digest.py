"""The digest of a file in pieces: every byte counts, and its order; and what writes it while it saves says the same."""

import hashlib
import os
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest

from kdcache.train import digest
from kdcache.train.checkpoint_engine import DigestedFile
from kdcache.train.digest import PIECE, digest_of_pieces, piece_digest, pieces_of
from kdcache.train.sealed import seal_of


def digest_in_one(data: bytes) -> str:
    pieces = [data[at : at + PIECE] for at in range(0, len(data), PIECE)] or [b""]
    return hashlib.sha256(b"".join(hashlib.sha256(piece).digest() for piece in pieces)).hexdigest()


@pytest.mark.parametrize("size", [0, 1, PIECE - 1, PIECE, PIECE + 1, 2 * PIECE, 3 * PIECE + 12_345])
def test_a_seal_is_the_digest_of_the_digests_of_the_pieces(tmp_path: Path, size: int) -> None:
    data = os.urandom(size)
    (tmp_path / "read").write_bytes(data)
    assert seal_of(tmp_path / "read").digest == digest_in_one(data)
    with ThreadPoolExecutor(2) as pool, open(tmp_path / "written", "wb", buffering=0) as file:
        written = DigestedFile(file, pool)
        for start in range(0, size, 5_000_011):
            written.write(data[start : start + 5_000_011])
        written.end()
        assert written.seal() == seal_of(tmp_path / "read")
    assert (tmp_path / "written").read_bytes() == data


def test_pieces_in_another_order_are_another_file(tmp_path: Path) -> None:
    data = os.urandom(2 * PIECE)
    (tmp_path / "file").write_bytes(data)
    (tmp_path / "other").write_bytes(data[PIECE:] + data[:PIECE])
    assert seal_of(tmp_path / "file") != seal_of(tmp_path / "other")


def test_a_file_that_ends_early_is_an_error(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(digest, "READ", 1000)
    (tmp_path / "file").write_bytes(bytes(2500))
    assert digest_of_pieces(piece_digest(tmp_path / "file", *piece) for piece in pieces_of(2500))
    with pytest.raises(OSError, match="ends before"):
        piece_digest(tmp_path / "file", 0, 2501)
