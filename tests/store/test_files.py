"""Root and Disk: names that stay inside, writes that are whole or absent, a full disk told in one line."""

import contextlib
import os
import resource
import socket
import subprocess
from pathlib import Path

import pytest

from kdcache.disk import Disk, is_temporary
from kdcache.errors import CacheError
from kdcache.store.files import Root, UnexpectedFile, check_name


@pytest.fixture(params=["path", "file", "memory"])
def root(request: pytest.FixtureRequest, tmp_path: Path) -> Root:
    urls = {"path": f"{tmp_path}/a", "file": f"file://{tmp_path}/a", "memory": f"memory://{tmp_path}/a"}
    return Root(urls[request.param])


def test_write_read_list_delete(root: Root) -> None:
    assert root.list() == root.list("shards") == ()
    assert not root.exists("shards/b")
    root.write("shards/b", b"second")
    root.write("shards/a", b"first")
    root.write("shards/b", b"again")
    root.write("top", b"")
    assert root.read("shards/b") == b"again"
    assert root.sizes("shards") == {"a": 5, "b": 5}
    assert root.list() == ("top",)
    assert root.exists("top")
    assert root.size("shards/a") == 5
    assert (root / "shards").read("a") == b"first"
    root.delete(["shards/a", "shards/none"])
    assert root.list("shards") == ("b",)


def test_a_missing_file_says_where(root: Root) -> None:
    with pytest.raises(FileNotFoundError, match=r"a/shards/none does not exist"):
        root.read("shards/none")
    with pytest.raises(FileNotFoundError, match=r"a/none does not exist"):
        root.size("none")


@pytest.mark.parametrize(
    "name",
    ["../x", "a/../../x", "/etc/passwd", "a//b", "", ".", "..", ".hidden", "a/.hidden", "a\\b", "C:x", "a\0b", "~x"],
)
def test_names_that_leave_the_folder_are_refused(root: Root, name: str) -> None:
    with pytest.raises(ValueError, match="expected a relative path inside the cache"):
        check_name(name)
    for action in (root.read, root.size, root.delete, lambda name: root.write(name, b"")):
        with pytest.raises(ValueError, match="expected a relative path inside the cache"):
            action(name)


@pytest.mark.parametrize("url", ["nosuch://x/y", "gs-typo://bucket"])
def test_unknown_protocol(url: str) -> None:
    with pytest.raises(CacheError, match=f"cannot open {url}: Protocol not known"):
        Root(url)


def test_a_url_that_cannot_be_opened(tmp_path: Path) -> None:
    with pytest.raises(CacheError, match=r"cannot open zip://cache::/.*: Is a directory"):
        Root(f"zip://cache::{tmp_path}")


def test_no_permission_is_one_line(tmp_path: Path) -> None:
    (tmp_path / "shards").write_text("a file where the folder should be")
    with pytest.raises(CacheError, match=r"cannot write .*shards/000000.json: (File exists|Not a directory)"):
        Root(tmp_path).write("shards/000000.json", b"{}")
    (tmp_path / "folder").mkdir()
    with pytest.raises(CacheError, match=r"cannot read .*folder: Is a directory"):
        Root(tmp_path).read("folder")


def test_a_full_disk_is_told_and_leaves_nothing(tmp_path: Path) -> None:
    """The system refuses the write half-way: here by a limit on file sizes."""
    root = Root(tmp_path)
    root.write("shard", b"old")
    soft, hard = resource.getrlimit(resource.RLIMIT_FSIZE)
    resource.setrlimit(resource.RLIMIT_FSIZE, (100_000, hard))
    try:
        with pytest.raises(CacheError, match=r"no room for .*/shard \(1 MB\): free some space and run"):
            root.write("shard", bytes(1_000_000))
    finally:
        resource.setrlimit(resource.RLIMIT_FSIZE, (soft, hard))
    assert [path.name for path in tmp_path.iterdir()] == ["shard"]
    assert root.read("shard") == b"old"


def test_a_full_file_system(tmp_path: Path) -> None:
    """A real one of 64 kB, where mounting is allowed."""
    mounted = subprocess.run(["mount", "-t", "tmpfs", "-o", "size=64k", "tmpfs", tmp_path], capture_output=True)
    if mounted.returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        root = Root(tmp_path)
        root.write("shards/a", bytes(10_000))
        with pytest.raises(CacheError, match="no room for"):
            root.write("shards/b", bytes(1_000_000))
        assert os.listdir(tmp_path / "shards") == ["a"]
        root.write("shards/b", bytes(10_000))
    finally:
        subprocess.run(["umount", tmp_path], check=True)


def test_an_interrupted_write_leaves_the_old_file(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    root = Root(tmp_path)
    root.write("a", b"old")

    def interrupt(*_: object) -> None:
        raise KeyboardInterrupt

    monkeypatch.setattr(os, "replace", interrupt)
    with pytest.raises(KeyboardInterrupt):
        root.write("a", b"new")
    assert root.read("a") == b"old"
    assert os.listdir(tmp_path) == ["a"]


def test_sweep_takes_dead_writers_leftovers_only(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """A live writer's temporary file is locked, and survives a sweep in the middle of its write."""
    root, sweeper = Root(tmp_path), Root(tmp_path)
    leftover = tmp_path / "shards" / ".000000.json.0123.tmp"
    leftover.parent.mkdir()
    leftover.write_bytes(b"half")
    sync = os.fsync

    def sweep_meanwhile(descriptor: int) -> None:
        assert len(sweeper.leftovers("shards")) == 2 or not leftover.exists()
        sweeper.sweep("shards")
        sync(descriptor)

    monkeypatch.setattr(os, "fsync", sweep_meanwhile)
    root.write("shards/a", b"whole")
    assert os.listdir(tmp_path / "shards") == ["a"]
    assert root.read("shards/a") == b"whole"


def test_listing_leaves_temporary_files_out(tmp_path: Path) -> None:
    (tmp_path / ".a.0123.tmp").write_bytes(b"half")
    (tmp_path / "a").write_bytes(b"whole")
    assert is_temporary(".a.0123.tmp")
    assert Root(tmp_path).list() == ("a",)
    assert Root(tmp_path).leftovers() == (".a.0123.tmp",)


def test_a_file_that_goes_away_during_a_listing_is_left_out(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Another rank's temporary file is renamed between the listing and the look at its size."""
    for name in ("a", "b"):
        (tmp_path / name).write_bytes(b"x")
    entries = [*os.scandir(tmp_path)]
    (tmp_path / "a").unlink()
    monkeypatch.setattr(os, "scandir", lambda _: contextlib.nullcontext(entries))
    assert Root(tmp_path).sizes() == {"b": 1}


def test_file_modes_follow_the_umask(tmp_path: Path) -> None:
    """Other users of a cluster can read a shard, as with any file."""
    (tmp_path / "plain").write_bytes(b"")
    Disk(tmp_path).write("shard", b"")
    assert (tmp_path / "shard").stat().st_mode == (tmp_path / "plain").stat().st_mode


def test_what_is_no_regular_file_is_refused_at_once(tmp_path: Path) -> None:
    """A FIFO would wait for a writer, and a device never end."""
    os.mkfifo(tmp_path / "fifo")
    (tmp_path / "zero").symlink_to("/dev/zero")
    (tmp_path / "link").symlink_to("fifo")
    with socket.socket(socket.AF_UNIX) as one:
        one.bind(str(tmp_path / "socket"))
        for name, what in {"fifo": "got a FIFO", "zero": "got a device", "link": "got a FIFO", "socket": ""}.items():
            with pytest.raises(CacheError, match=f"cannot read .*/{name}: {what}"):
                Root(tmp_path).read(name)


def test_a_file_larger_than_expected_is_not_read(root: Root) -> None:
    root.write("a", b"12345")
    assert root.read("a", 5) == b"12345"
    with pytest.raises(UnexpectedFile, match=r"cannot read .*/a: got .* bytes, expected at most"):
        root.read("a", 4)


def test_a_sparse_file_takes_no_memory(tmp_path: Path) -> None:
    with open(tmp_path / "sparse", "wb") as file:
        file.truncate(1 << 43)
    with pytest.raises(UnexpectedFile, match="got 8796093022208 bytes, expected at most 100"):
        Root(tmp_path).read("sparse", 100)
