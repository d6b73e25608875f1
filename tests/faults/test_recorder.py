"""The recorder of power cuts itself: a file system gives the number of what was deleted to the next file at once."""

import os
from collections.abc import Iterator
from pathlib import Path

import pytest
from faults.power import Recorder

from kdcache.disk import sync_folder


@pytest.fixture
def recorder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> Iterator[Recorder]:
    monkeypatch.setattr(os, "fsync", os.fsync)
    folder = tmp_path / "folder"
    folder.mkdir()
    recorder = Recorder(folder)
    recorder.install()
    yield recorder
    recorder.close()


def synced(path: Path, data: bytes) -> None:
    with path.open("wb") as file:
        file.write(data)
        file.flush()
        os.fsync(file.fileno())
    sync_folder(path.parent)


def test_a_file_after_a_deleted_folder_is_a_file(recorder: Recorder) -> None:
    under = recorder.under
    for number in range(20):
        (under / "scratch").mkdir()
        sync_folder(under)
        (under / "scratch").rmdir()
        synced(under / f"{number}", b"kept")
        assert recorder.states[-1][f"{number}"] == b"kept"


def test_a_file_that_was_not_synced_has_nothing_of_a_deleted_one(recorder: Recorder) -> None:
    under = recorder.under
    for number in range(20):
        synced(under / "before", b"old")
        (under / "before").unlink()
        (under / f"{number}").write_bytes(b"new")
        sync_folder(under)
        assert recorder.states[-1][f"{number}"] == b""


def test_a_name_that_was_not_deleted_on_the_disk_keeps_its_bytes(recorder: Recorder) -> None:
    under = recorder.under
    (under / "below").mkdir()
    synced(under / "before", b"old")
    (under / "before").unlink()
    with (under / "below" / "after").open("wb") as file:
        file.write(b"new")
        file.flush()
        os.fsync(file.fileno())
    assert recorder.states[-1] == {"before": b"old"}
