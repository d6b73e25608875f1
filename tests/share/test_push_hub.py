"""Pushing to the Hub with huggingface_hub's own client; the Hub is a stand-in (hub_server.py)."""

import re
import signal
import subprocess
import sys
import threading
from pathlib import Path

import pytest
import yaml
from helpers import Run, files_of
from hub_server import HubServer
from share.test_copies import ended
from store.making import write_cache

from kdcache.errors import CacheError
from kdcache.share import hub_push, hub_tree
from kdcache.store.cache import open_cache
from kdcache.store.verify import verify

URL = "hf://datasets/ann/logits"


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Of 5 shards."""
    write_cache(tmp_path / "cache", 20)
    return tmp_path / "cache"


@pytest.fixture
def small_commits(monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setattr(hub_push, "GROUP_FILES", 2)
    monkeypatch.setattr(hub_push, "COMMIT_FILES", 4)


def kill_at(hub: HubServer, command: list[object], method: str, part: str, number: int) -> None:
    """Start a command as a process of its own, and kill it while it waits for the so-manieth answer of this kind."""
    reached, seen = threading.Event(), 0

    def wait(asked: str, path: str) -> None:
        nonlocal seen
        if asked == method and part in path:
            seen += 1
            if seen == number:
                reached.set()
                gone.wait(60)

    gone, hub.wait = threading.Event(), wait
    command = [sys.executable, "-m", "kdcache", *map(str, command)]
    with subprocess.Popen(command, stderr=subprocess.PIPE, text=True) as process:
        try:
            assert reached.wait(120), process.communicate(timeout=5)
        finally:
            process.send_signal(signal.SIGKILL)
            gone.set()
            hub.wait = None


@pytest.mark.parametrize("path", ["", "/runs/a"])
def test_there_and_back(path: str, hub: HubServer, cache: Path, tmp_path: Path, run: Run, small_commits: None) -> None:
    status, out, said = run("push", cache, f"{URL}{path}", "--private", "--license", "cc-by-4.0")
    assert (status, "13 files sent" in out) == (0, True), said
    repo, digest = hub.repos["ann/logits"], open_cache(cache).digest
    assert repo.private
    assert verify(f"{URL}{path}") == []
    prefix = f"{path}/".lstrip("/")
    named = [f"{prefix}cache.json" in repo.commits[head] for head in repo.heads]
    assert named == [False] * (len(named) - 1) + [True]
    assert len(named) >= 5  # main, header, shards, the whole
    there = {name.removeprefix(prefix): data for name, data in hub.files("ann/logits").items()}
    assert {*there} - {*files_of(cache)} == {".kdcache/owner.json", "README.md", *({".gitattributes"} & {*there})}
    status, out, said = run("push", cache, f"{URL}{path}", "--license", "cc-by-4.0")
    assert ("0 files sent" in out, len(repo.heads)) == (True, len(named)), said
    status, out, said = run("fetch", f"{URL}{path}", "--out", tmp_path / "back", "--digest", digest)
    assert status == 0, said
    assert files_of(tmp_path / "back") == files_of(cache)
    assert verify(tmp_path / "back") == []


def test_the_card(hub: HubServer, tmp_path: Path, run: Run) -> None:
    for backend, front in (
        ("zarr", {"viewer": False}),
        ("arrow", {"configs": [{"config_name": "default", "data_files": "shards/*/*.arrow"}]}),
    ):
        write_cache(tmp_path / backend, 20, backend=backend)
        assert run("push", tmp_path / backend, f"{URL}-{backend}", "--teacher-license", "apache-2.0")[0] == 0
        _, head, text = hub.files(f"ann/logits-{backend}")["README.md"].decode().split("---\n", 2)
        assert yaml.safe_load(head) == {
            "task_categories": ["text-generation"],
            "tags": ["kdcache", "knowledge-distillation", "logits"],
            "size_categories": ["n<1K"],
            **front,
        }
        assert open_cache(tmp_path / backend).digest in text
        assert "| licence of the teacher | apache-2.0 |" in text
        assert "| licence of the corpus | not said |" in text
        assert f"-o cache={URL}-{backend}" in text


def test_killed_pushes_go_on(hub: HubServer, cache: Path, tmp_path: Path, run: Run, small_commits: None) -> None:
    """SIGKILL while the third shard is sent: no cache to anybody, and nothing that is there is sent a second time."""
    kill_at(hub, ["push", cache, URL], "PUT", "/objects/", 3)
    assert "is a copy of the cache" in ended(run, "inspect", URL)
    status, _, said = run("push", cache, URL)
    assert status == 0, said
    assert verify(URL) == []
    shards = {name: len(data) for name, data in files_of(cache).items() if name.endswith((".zip", ".arrow"))}
    assert hub.sent == sum(shards.values())
    before = hub.sent
    kill_at(hub, ["fetch", URL, "--out", tmp_path / "back"], "GET", "/shards/000/000003.zarr.zip", 2)
    assert "is a copy of the cache" in ended(run, "inspect", tmp_path / "back")
    hub.log.clear()
    assert run("fetch", URL, "--out", tmp_path / "back")[0] == 0
    assert files_of(tmp_path / "back") == files_of(cache)
    assert hub.sent == before


def test_another_cache_stays_unless_it_is_to_be_replaced(hub: HubServer, cache: Path, tmp_path: Path, run: Run) -> None:
    write_cache(tmp_path / "other", 40, seed=1)
    assert run("push", tmp_path / "other", URL)[0] == 0
    opened = open_cache(URL, local_cache_gb=0)
    heads = len(hub.repos["ann/logits"].heads)
    assert "holds another cache" in ended(run, "push", cache, URL)
    assert len(hub.repos["ann/logits"].heads) == heads
    status, _, said = run("push", cache, URL, "--force")
    assert status == 0, said
    assert open_cache(URL).digest == open_cache(cache).digest
    assert verify(URL) == []
    assert len(opened.read(0, 40)) == 40  # who has opened the other one reads on


def test_branches(hub: HubServer, cache: Path, run: Run) -> None:
    assert run("push", cache, URL)[0] == 0
    status, _, said = run("push", cache, f"{URL}@v2/sub")
    assert status == 0, said
    assert verify(f"{URL}@v2/sub") == []
    assert not any(name.startswith("sub/") for name in hub.files("ann/logits"))


def test_a_commit_of_somebody_else_meanwhile(hub: HubServer, cache: Path, run: Run) -> None:
    """The first commit is made on what was looked at, or not at all; then the same command goes on."""
    assert run("push", cache, URL)[0] == 0
    repo, once = hub.repos["ann/logits"], [1]
    del hub.repos["ann/logits"]
    hub.repos["ann/logits"] = type(repo)()
    hub.repos["ann/logits"].commit("main", {})

    def wait(method: str, path: str) -> None:
        if "/commit/" in path and once:
            once.clear()
            hub.repos["ann/logits"].commit("main", {"notes.txt": b"x"})

    hub.wait = wait
    assert "somebody else has committed" in ended(run, "push", cache, URL)
    assert run("push", cache, URL)[0] == 0
    assert hub.files("ann/logits")["notes.txt"] == b"x"


def test_bad_answers(hub: HubServer, cache: Path, tmp_path: Path, run: Run) -> None:
    """503 and cut connections pass; wrong bytes of a fetch are fetched again."""
    faults = iter([503, "close", None, 503])
    hub.fault = lambda method, path: next(faults, None) if "/commit/" in path else None
    status, _, said = run("push", cache, URL)
    assert (status, "trying again" in said) == (0, True), said
    once = iter(["flip"])
    hub.fault = lambda method, path: next(once, None) if path.startswith("/cdn/") else None
    status, _, said = run("fetch", URL, "--out", tmp_path / "back")
    assert (status, "fetching it again" in said, verify(tmp_path / "back")) == (0, True, []), said
    hub.fault = lambda method, path: "flip" if re.match("/cdn/.*000002", path) else None
    said = ended(run, "fetch", URL, "--out", tmp_path / "bad")
    assert "000002.zarr.zip is damaged: got sha256" in said
    assert not (tmp_path / "bad" / "shards/000/000002.zarr.zip").exists()


def test_what_the_hub_refuses(hub: HubServer, cache: Path, run: Run, monkeypatch: pytest.MonkeyPatch) -> None:
    ended(run, "push", cache, "hf://ann/logits", status=2)
    ended(run, "push", cache, f"{URL}@{'0' * 40}", status=2)
    ended(run, "push", cache, f"{URL}/a b", status=2)
    assert run("push", cache, URL)[0] == 0
    assert "is a public repository" in ended(run, "push", cache, URL, "--private", status=2)
    assert "no dataset ann/none" in ended(run, "fetch", "hf://datasets/ann/none", "--out", "/nonexistent", status=2)
    monkeypatch.setenv("HF_TOKEN", hub.reader)
    said = ended(run, "push", cache, "hf://datasets/ann/new")
    assert "access denied" in said
    assert hub.reader not in said
    monkeypatch.delenv("HF_TOKEN")
    assert "access denied" in ended(run, "push", cache, "hf://datasets/ann/new")
    ended(run, "dump-logits", "/nonexistent.yaml", "-o", f"output={URL}", status=2)
    ended(run, "convert", cache, URL, "--to", "arrow", status=2)
    from huggingface_hub import constants

    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    assert "HF_HUB_OFFLINE is set" in ended(run, "push", cache, URL)
    assert "HF_HUB_OFFLINE is set" in ended(run, "fetch", URL, "--out", cache.parent / "out")


def test_limits(hub: HubServer, cache: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """Before anything is sent."""
    manifest = open_cache(cache).manifest
    hub_tree.check_limits(manifest, "", [])
    monkeypatch.setattr(hub_tree, "MOST_FILES", 30)
    with pytest.raises(CacheError, match=r"got 40 files in a repository, expected at most 30 .*corpus\.unit_rows"):
        hub_tree.check_limits(manifest, "", [f"data/{n}" for n in range(25)])
    monkeypatch.setattr(hub_tree, "MOST_IN_A_FOLDER", 9)
    with pytest.raises(CacheError, match=r"got 10 files in a/shards/000, expected at most 9"):
        hub_tree.check_limits(manifest, "a", [])
    monkeypatch.setattr(hub_tree, "MOST_FILES", 10)
    with pytest.raises(CacheError, match=r"got 15 files"):
        hub_tree.check_limits(manifest, "", [])
    assert not hub.repos


def test_git_names_what_it_keeps(hub: HubServer) -> None:
    """As git does."""
    assert hub_tree.git_sha1(b"hello\n") == "ce013625030ba8dba906f756967f9e9ca394464a"
