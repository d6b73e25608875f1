"""A cache is pushed to S3 and fetched from there, also through bad answers and SIGKILL."""

import os
import signal
import subprocess
import sys
import threading
import time
from pathlib import Path

import pytest
from helpers import files_of
from remote.serving import Run, Store
from store.making import write_cache

from kdcache.store.cache import open_cache
from kdcache.store.verify import verify


@pytest.fixture
def cache(tmp_path: Path) -> Path:
    """Of 10 shards."""
    write_cache(tmp_path / "cache", 40)
    return tmp_path / "cache"


def kill_at(store: Store, command: list[object], method: str, part: str) -> None:
    """Start a command as a process of its own, and kill it while it waits for the first answer of this kind."""
    reached, gone = threading.Event(), threading.Event()

    def fault(asked: str, path: str) -> str | None:
        if asked != method or part not in path:
            return None
        reached.set()
        gone.wait(60)
        return "close"

    store.proxy.fault = fault
    command = [sys.executable, "-m", "kdcache", *map(str, command)]
    with subprocess.Popen(command, env={**os.environ, **store.env}, stderr=subprocess.DEVNULL) as process:
        try:
            assert reached.wait(120)
            time.sleep(1)  # what else is on its way arrives
        finally:
            process.send_signal(signal.SIGKILL)
            gone.set()
            store.proxy.fault = None


def test_killed_pushes_and_fetches_go_on(store: Store, run: Run, cache: Path, tmp_path: Path) -> None:
    url = f"{store.url}/pushed"
    kill_at(store, ["push", cache, url], "PUT", "000007.zarr.zip")
    status, said = run("inspect", url)
    assert (status, "is a copy of the cache" in said) == (1, True), said
    there = {name for name in store.files("pushed/") if name.endswith(".json") and name.startswith("shards/")}
    assert there
    store.proxy.reset()
    assert run("push", cache, url)[0] == 0
    put = [path for method, path in store.proxy.log if method == "PUT"]
    assert len(put) < 2 * 10 + 4  # those that were there are not sent again
    assert not [name for name in there if any(path.endswith(name) for path in put)]
    assert verify(url) == []
    kill_at(store, ["fetch", url, "--out", tmp_path / "back"], "GET", "000007.zarr.zip")
    status, said = run("inspect", tmp_path / "back")
    assert (status, "is a copy of the cache" in said) == (1, True), said
    assert run("fetch", url, "--out", tmp_path / "back")[0] == 0
    assert files_of(tmp_path / "back") == files_of(cache)


def test_bad_answers(store: Store, run: Run, cache: Path, tmp_path: Path) -> None:
    url = f"{store.url}/pushed"
    faults = iter(["503", None, "close", None, None, "500"] * 2)
    store.proxy.fault = lambda method, path: next(faults, None) if "/shards/" in path else None
    assert run("push", cache, url)[0] == 0
    flips = iter(["flip", None, "truncate", "flip"])
    store.proxy.fault = lambda method, path: next(flips, None) if method == "GET" and path.endswith(".zip") else None
    status, said = run("fetch", url, "--out", tmp_path / "back")
    assert (status, next(flips, None)) == (0, None), said
    assert files_of(tmp_path / "back") == files_of(cache)
    store.proxy.fault = lambda method, path: "403"
    status, said = run("push", cache, f"{store.url}/more")
    assert (status, "access denied" in said) == (1, True), said
    assert open_cache(cache).digest


def test_a_bucket_that_is_not_there(store: Store, run: Run, cache: Path) -> None:
    status, said = run("push", cache, "s3://no-such-bucket/x")
    assert (status, "there is no such bucket" in said) == (2, True), said
