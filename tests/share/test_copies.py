"""Copies of a cache between folders and stores: checked, resumable, and never over another cache."""

import resource
import shutil
import subprocess
import sys
from functools import partial
from pathlib import Path

import pytest
from helpers import Run, files_of
from store.making import write_cache

from kdcache.store.cache import open_cache
from kdcache.store.files import Root
from kdcache.store.verify import verify


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Of 5 shards."""
    write_cache(tmp_path / "cache", 20)
    return tmp_path / "cache"


@pytest.fixture
def place(tmp_path: Path) -> str:
    """A place of this test alone in the memory of this process."""
    return f"memory://{tmp_path.name}/{abs(hash(str(tmp_path)))}/cache"


def ended(run: Run, *arguments: object, status: int = 1) -> str:
    """The one line of a command that fails."""
    found, _, said = run(*arguments)
    lines = [line for line in said.splitlines() if line.startswith("kdcache: ")]
    assert (found, len(lines), "Traceback" in said) == (status, 1, False), said
    return lines[0]


@pytest.mark.parametrize("kind", ["memory", "file", "folder"])
def test_there_and_back(kind: str, cache: Path, place: str, tmp_path: Path, run: Run) -> None:
    url = {"memory": place, "file": f"file://{tmp_path}/store/cache", "folder": tmp_path / "store"}[kind]
    status, out, _ = run("push", cache, url)
    digest = open_cache(cache).digest
    assert (status, "13 files sent" in out, digest in out) == (0, True, True), out
    assert verify(str(url)) == []
    status, out, _ = run("push", cache, url)
    assert "0 files sent, 0.00 MB, 13 files there already" in out
    assert run("fetch", url, "--out", tmp_path / "back", "--digest", digest[:12])[0] == 0
    assert files_of(tmp_path / "back") == files_of(cache)
    assert verify(tmp_path / "back") == []
    assert "0 files fetched" in run("fetch", url, "--out", tmp_path / "back")[1]


def test_a_copy_that_was_stopped_goes_on(
    cache: Path, place: str, tmp_path: Path, run: Run, monkeypatch: pytest.MonkeyPatch
) -> None:
    """The third shard cannot be written: nobody takes the half for a cache, and what is there is not sent again."""
    write, broken = Root.write, True

    def fails(self: Root, name: str, data: bytes, *, replace: bool = True) -> None:
        if broken and name.startswith("shards/000/000002."):
            raise OSError(28, "No space left on device")
        write(self, name, data, replace=replace)

    monkeypatch.setattr(Root, "write", fails)
    for command, there in (
        (("push", cache, place), place),
        (("fetch", place, "--out", tmp_path / "out"), tmp_path / "out"),
    ):
        broken = True
        assert "No space left" in ended(run, *command)
        assert "is a copy of the cache" in ended(run, "inspect", there)
        assert "is a copy of the cache" in ended(run, "fetch", there, "--out", tmp_path / "never")
        broken = False
        status, told, _ = run(*command)
        done = int(told.rpartition(" files there already")[0].rpartition(" ")[2])
        assert (status, done >= 3) == (0, True), told
        assert verify(str(there)) == []


def test_another_cache_stays_unless_it_is_to_be_replaced(cache: Path, place: str, tmp_path: Path, run: Run) -> None:
    write_cache(tmp_path / "other", 40, seed=1)
    for there, command in (
        (place, ("push", cache, place)),
        (tmp_path / "out", ("fetch", cache, "--out", tmp_path / "out")),
    ):
        assert run("push", tmp_path / "other", there)[0] == 0
        digest = open_cache(there).digest
        assert "holds another cache" in ended(run, *command)
        assert open_cache(there).digest == digest
        assert run(*command, "--force")[0] == 0
        assert open_cache(there).digest == open_cache(cache).digest
        assert verify(str(there)) == []  # the ten shards of the other are gone


def test_an_unfinished_cache_of_somebody_else_stays(cache: Path, place: str, tmp_path: Path, run: Run) -> None:
    shutil.copytree(cache, tmp_path / "begun")
    (tmp_path / "begun" / "cache.json").unlink()
    assert "is not finished, and is no copy" in ended(run, "fetch", cache, "--out", tmp_path / "begun")
    (tmp_path / "mine").mkdir()
    (tmp_path / "mine" / "thesis.tex").write_text("x")
    assert "thesis.tex" in ended(run, "fetch", cache, "--out", tmp_path / "mine", status=2)
    assert "lies inside" in ended(run, "push", cache, cache / "copy", status=2)


@pytest.mark.parametrize("name", ["shards/000/000001.zarr.zip", "shards/000/000001.json", "header.json"])
def test_damage_is_not_passed_on(name: str, cache: Path, place: str, tmp_path: Path, run: Run) -> None:
    """Of the same size, so that only its digest tells."""
    data = bytearray((cache / name).read_bytes())
    data[len(data) // 2] ^= 1
    (cache / name).write_bytes(data)
    said = ended(run, "push", cache, place)
    assert f"{name} is damaged: got sha256" in said
    assert "verify" in said
    said = ended(run, "fetch", cache, "--out", tmp_path / "out")
    assert f"{name} is damaged: got sha256" in said
    assert not (tmp_path / "out" / name).exists()
    assert not (tmp_path / "out" / "cache.json").exists()
    (cache / name).unlink()
    assert f"{name} is missing" in ended(run, "push", cache, place)


def test_what_differs_is_sent_again(cache: Path, tmp_path: Path, run: Run) -> None:
    assert run("push", cache, tmp_path / "copy")[0] == 0
    shard = tmp_path / "copy" / "shards/000/000001.zarr.zip"
    data = bytearray(shard.read_bytes())
    data[100] ^= 1
    shard.write_bytes(data)
    assert "1 file sent" in run("push", cache, tmp_path / "copy")[1]
    assert verify(tmp_path / "copy") == []


def test_a_full_disk(cache: Path, tmp_path: Path) -> None:
    """No file may have more than 8 kB: one line, and the fetch goes on when there is room."""
    largest = max(len(data) for name, data in files_of(cache).items() if name.endswith(".zip"))
    assert largest > 8192
    command = [sys.executable, "-m", "kdcache", "fetch", str(cache), "--out", str(tmp_path / "out")]
    small = partial(resource.setrlimit, resource.RLIMIT_FSIZE, (8192, 8192))
    found = subprocess.run(command, preexec_fn=small, capture_output=True, text=True, check=False)
    assert (found.returncode, found.stderr.count("\n"), "no room for" in found.stderr) == (1, 1, True), found.stderr
    assert subprocess.run(command, capture_output=True, check=False).returncode == 0
    assert verify(tmp_path / "out") == []


def test_bad_input(cache: Path, place: str, tmp_path: Path, run: Run) -> None:
    ended(run, "push", cache, place, "--private", status=2)
    ended(run, "push", cache, place, "--license", "mit", status=2)
    ended(run, "push", tmp_path / "none", place, status=2)
    ended(run, "fetch", tmp_path / "none", "--out", tmp_path / "out", status=2)
    ended(run, "fetch", cache, "--out", "s3://bucket/x", status=2)
    ended(run, "fetch", cache, "--out", tmp_path / "out", "--digest", "xyz", status=2)
    assert "expected 000000000000" in ended(run, "fetch", cache, "--out", tmp_path / "out", "--digest", "0" * 12)
    assert not (tmp_path / "out").exists()
    (tmp_path / "file").write_text("")
    ended(run, "fetch", cache, "--out", tmp_path / "file" / "out", status=2)
    ended(run, "push", cache, "nothing://x/y")
