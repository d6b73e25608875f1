"""Who writes in a folder: real processes, real SIGKILL."""

import errno
import os
import signal
import subprocess
import sys
import time
from collections.abc import Iterator
from contextlib import contextmanager
from pathlib import Path

import pytest

from kdcache.disk import Disk
from kdcache.errors import LockedError
from kdcache.owned import lease, lock
from kdcache.owned.lock import check_free, hold

WRITER = """
import sys, time
from pathlib import Path
from kdcache.owned.lock import hold
held = hold(Path(sys.argv[1]), sys.argv[2], identity=sys.argv[3] or None)
print("holds", flush=True)
time.sleep(600)
"""


@contextmanager
def writer(folder: Path, doing: str, identity: str = "") -> Iterator[subprocess.Popen[str]]:
    process = subprocess.Popen(
        [sys.executable, "-c", WRITER, str(folder), doing, identity], stdout=subprocess.PIPE, text=True
    )
    assert process.stdout is not None
    with process:
        assert process.stdout.readline() == "holds\n"
        try:
            yield process
        finally:
            process.kill()


@pytest.fixture(autouse=True)
def _impatient(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lock, "PATIENCE_S", 0.3)


def leases(folder: Path) -> list[str]:
    return sorted(path.name for path in (folder / ".kdcache" / "locks").iterdir())


def test_writers_of_one_identity_share_a_folder_and_others_are_refused(tmp_path: Path) -> None:
    with writer(tmp_path, "dump-logits", "ab" * 32) as process, hold(tmp_path, "dump-logits", identity="ab" * 32):
        check_free(tmp_path, identity="ab" * 32)
        for doing, identity in (("train", "cd" * 32), ("verify", None)):
            with pytest.raises(LockedError) as refused:
                hold(tmp_path, doing, identity=identity)
            text = str(refused.value)
            assert (
                f"is being written by kdcache dump-logits, process {process.pid} on " in text
                or str(os.getpid()) in text
            )
            assert " since 2" in text
            assert "--force" in text
        with pytest.raises(LockedError, match="kill"):
            check_free(tmp_path)
    assert len(leases(tmp_path)) == 1, "the killed one's"
    hold(tmp_path, "verify").release()
    assert leases(tmp_path) == []


def test_a_killed_writer_is_recognised_at_once(tmp_path: Path) -> None:
    for reap in (True, False):
        with writer(tmp_path, "train") as process:
            process.send_signal(signal.SIGKILL)
            if reap:
                process.wait()
            start = time.monotonic()
            with hold(tmp_path, "train"):
                assert time.monotonic() - start < 1


def test_another_process_with_the_number_of_a_dead_writer_is_not_it(tmp_path: Path) -> None:
    with writer(tmp_path, "train") as process:
        (name,) = leases(tmp_path)
    path = tmp_path / ".kdcache" / "locks" / name
    path.write_text(path.read_text().replace(f"pid={process.pid}", f"pid={os.getpid()}"))
    hold(tmp_path, "train").release()
    assert leases(tmp_path) == []


def test_a_dead_host_is_recognised_when_its_heart_stops(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LIFETIME_S", 1.0)
    held = hold(tmp_path, "train")
    (name,) = leases(tmp_path)
    held.release()
    path = tmp_path / ".kdcache" / "locks" / name
    here = _marker(tmp_path)
    path.write_text(here.replace("host=", "host=another-"))
    check_free(tmp_path)
    start = time.monotonic()
    hold(tmp_path, "train").release()
    assert 0.9 < time.monotonic() - start < 4


def test_a_live_host_is_recognised_by_its_heartbeat(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(lease, "LIFETIME_S", 2.0)
    here = _marker(tmp_path)
    path = tmp_path / ".kdcache" / "locks" / "train.0123456789abcdef.20261126T000000Z.01234567"
    path.write_text(here.replace("host=", "host=another-"))
    beat = subprocess.Popen(["bash", "-c", f"while sleep 0.2; do touch {path}; done"])
    try:
        with pytest.raises(
            LockedError, match=r"kdcache train, process \d+ on another-.* since 2026-11-26 00:00:00 UTC"
        ):
            hold(tmp_path, "train")
        assert path.exists()
    finally:
        beat.kill()
        beat.wait()


def _marker(folder: Path) -> str:
    with hold(folder, "train"):
        (name,) = leases(folder)
        return (folder / ".kdcache" / "locks" / name).read_text()


def test_force_takes_over_and_the_other_one_is_told(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    monkeypatch.setattr(lease, "LIFETIME_S", 1.0)
    first = hold(tmp_path, "train")
    first.check()
    with hold(tmp_path, "convert", force=True) as second:
        assert f"process {os.getpid()}" in capsys.readouterr().err
        deadline = time.monotonic() + 5
        while first.lost is None and time.monotonic() < deadline:
            time.sleep(0.05)
        with pytest.raises(LockedError, match=r"took .* over"):
            first.check()
        second.check()
        first.release()
        assert len(leases(tmp_path)) == 1


def test_a_dropped_lease_is_given_back(tmp_path: Path) -> None:
    held = hold(tmp_path, "train")
    assert len(leases(tmp_path)) == 1
    del held
    assert leases(tmp_path) == []


def test_the_end_of_a_process_gives_its_lease_back(tmp_path: Path) -> None:
    code = WRITER.replace("time.sleep(600)", "")
    subprocess.run([sys.executable, "-c", code, str(tmp_path), "train", ""], check=True, capture_output=True)
    assert leases(tmp_path) == []


def test_of_many_at_once_one_gets_the_folder(tmp_path: Path) -> None:
    many = [
        subprocess.Popen(
            [sys.executable, "-c", WRITER, str(tmp_path), "train", ""],
            stdout=subprocess.PIPE,
            stderr=subprocess.PIPE,
            text=True,
        )
        for _ in range(6)
    ]
    deadline = time.monotonic() + 120
    while sum(process.poll() is None for process in many) > 1:
        assert time.monotonic() < deadline
        time.sleep(0.1)
    (winner,) = (process for process in many if process.poll() is None)
    winner.kill()
    told = [process.communicate() for process in many]
    assert [out for out, _ in told].count("holds\n") == 1
    assert sum("LockedError" in err for _, err in told) == 5


def test_a_folder_that_cannot_be_written_is_named(tmp_path: Path) -> None:
    (tmp_path / ".kdcache").write_text("a file")
    with pytest.raises(LockedError, match="cannot lock"):
        hold(tmp_path, "train")


def test_of_two_writers_of_one_process_the_older_gives_way(tmp_path: Path) -> None:
    """An object that was made again with other settings, as in a notebook."""
    first = hold(tmp_path, "cache-writer", identity="ab" * 32)
    with hold(tmp_path, "cache-writer", identity="cd" * 32) as second:
        second.check()
        with pytest.raises(LockedError, match="superseded"):
            first.check()
        assert len(leases(tmp_path)) == 1
        with pytest.raises(LockedError, match="kdcache cache-writer"):
            hold(tmp_path, "verify")


def test_a_disk_without_hard_links_is_good_enough(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """FAT and some mounts refuse them: a file is created once all the same, and leases need none."""

    def refuse(*paths: object, **named: object) -> None:
        raise OSError(errno.EPERM, os.strerror(errno.EPERM))

    monkeypatch.setattr(os, "link", refuse)
    disk = Disk(tmp_path)
    disk.write("name", b"first", replace=False)
    disk.write("name", b"second", replace=False)
    assert disk.read("name") == b"first"
    assert disk.entries() == ["name"]
    with hold(tmp_path, "train"), pytest.raises(LockedError):
        hold(tmp_path, "convert")


@pytest.mark.parametrize("name", ["door", "train.0123456789abcdef.20261126T062805Z.b6e4698e"])
def test_a_writer_that_was_killed_before_it_wrote_its_name_locks_nobody_out(tmp_path: Path, name: str) -> None:
    locks = tmp_path / ".kdcache" / "locks"
    locks.mkdir(parents=True)
    (locks / name).touch()
    start = time.monotonic()
    with hold(tmp_path, "train"):
        assert time.monotonic() - start < 10
    assert [*locks.iterdir()] == []


FEW = """
import os, resource, sys
from pathlib import Path
from kdcache.owned.door import door
locks = Path(sys.argv[1])
with door(locks, locks):
    pass
held, most = len(os.listdir("/proc/self/fd")) - 1, resource.getrlimit(resource.RLIMIT_NOFILE)[1]
for spare in range(6):
    resource.setrlimit(resource.RLIMIT_NOFILE, (held + spare, most))
    try:
        with door(locks, locks):
            print("in", flush=True)
    except OSError as error:
        print(error.strerror, flush=True)
"""


def test_a_process_without_file_descriptors_says_so_and_does_not_wait(tmp_path: Path) -> None:
    """Also where its last one goes into the lease, so that it cannot read whose it is."""
    done = subprocess.run([sys.executable, "-c", FEW, tmp_path], capture_output=True, text=True, timeout=60, check=True)
    said = done.stdout.splitlines()
    assert len(said) == 6
    assert said == sorted(said)  # "Too many open files" before "in"
    assert {said[0], said[-1]} == {"Too many open files", "in"}
