"""Local copies of remote shards: one download for a machine, whatever is evicted meanwhile; never the end of a run."""

import subprocess
import threading
import time
from concurrent.futures import ThreadPoolExecutor
from pathlib import Path

import pytest
from remote.serving import Store
from store.making import write_cache

from kdcache.errors import DamagedShardError
from kdcache.store.cache import open_cache, read_manifest
from kdcache.store.files import Root
from kdcache.store.local_copies import LocalCopies
from kdcache.store.manifest import Manifest


def cache_on(store: Store) -> Manifest:
    write_cache(f"{store.url}/cache")
    return read_manifest(Root(f"{store.url}/cache"))


def shard_reads(store: Store) -> list[str]:
    return [path for method, path in store.proxy.log if method == "GET" and path.endswith(".zip")]


def read_at_once(store: Store, copies: Path, gb: float, rounds: int) -> None:
    """Eight readers that share nothing but the folder: a lock on a file excludes threads as it does processes."""

    def read() -> None:
        cache = open_cache(f"{store.url}/cache", local_cache=copies, local_cache_gb=gb)
        for _ in range(rounds):
            for index in range(len(cache.manifest.shards)):
                cache.read_shard(index)

    with ThreadPoolExecutor(8) as pool:
        for done in [pool.submit(read) for _ in range(8)]:
            done.result()


def test_the_ranks_of_a_machine_fetch_a_block_once(store: Store, tmp_path: Path) -> None:
    manifest = cache_on(store)
    store.proxy.reset()
    read_at_once(store, tmp_path / "copies", 1, 1)
    assert sorted(shard_reads(store)) == sorted(
        f"/{store.bucket}/cache/{s.file}" for s in manifest.shards for _ in s.blocks
    )


def test_copies_that_are_evicted_meanwhile_are_fetched_again(store: Store, tmp_path: Path) -> None:
    """The bound holds one shard, and eight readers push it out under each other."""
    manifest = cache_on(store)
    bound = max(shard.bytes for shard in manifest.shards)
    read_at_once(store, tmp_path / "copies", bound / 1e9, 5)
    kept = [path for path in (tmp_path / "copies").iterdir() if len(path.name) == 64]
    assert sum(path.stat().st_size for path in kept) <= bound


def test_a_folder_that_cannot_be_written_costs_a_sentence(
    store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]
) -> None:
    manifest = cache_on(store)
    mounted = tmp_path / "home"
    mounted.mkdir()
    read_only = subprocess.run(["mount", "-t", "tmpfs", "-o", "ro,size=1m", "tmpfs", mounted], capture_output=True)
    try:
        (tmp_path / "file").write_text("")
        for folder in (tmp_path / "file" / "copies", *([mounted / "copies"] if not read_only.returncode else [])):
            cache = open_cache(f"{store.url}/cache", local_cache=folder)
            for index in range(len(manifest.shards)):
                cache.read_shard(index)
            said = capfd.readouterr().err.splitlines()
            assert len(said) == 1
            assert said[0].startswith(f"keeping no copies of shards in {folder} (")
            assert "set XDG_CACHE_HOME to a folder that can be written" in said[0]
    finally:
        if not read_only.returncode:
            subprocess.run(["umount", mounted], check=True)


def test_a_full_disk_costs_a_sentence(store: Store, tmp_path: Path, capfd: pytest.CaptureFixture[str]) -> None:
    cache_on(store)
    mounted = tmp_path / "full"
    mounted.mkdir()
    if subprocess.run(["mount", "-t", "tmpfs", "-o", "size=8k", "tmpfs", mounted], capture_output=True).returncode:
        pytest.skip("mounting a tmpfs needs root")
    try:
        open_cache(f"{store.url}/cache", local_cache=mounted / "copies").read(0, 10)
        assert "No space left on device" in capfd.readouterr().err
    finally:
        subprocess.run(["umount", mounted], check=True)


def test_a_wrong_body_is_never_kept(store: Store, tmp_path: Path) -> None:
    manifest = cache_on(store)
    cache = open_cache(f"{store.url}/cache", local_cache=tmp_path / "copies")
    store.proxy.fault = lambda method, path: "flip" if method == "GET" else None
    with pytest.raises(DamagedShardError, match="got sha256"):
        cache.read_shard(0)
    store.proxy.fault = None
    assert LocalCopies(tmp_path / "copies", 10**9).get(manifest.shards[0].sha256) is None
    cache.read_shard(0)


def test_a_failed_download_frees_the_others(tmp_path: Path) -> None:
    copies, begun = LocalCopies(tmp_path / "copies", 100), threading.Event()
    digest = "a" * 64

    def fail() -> bytes:
        begun.set()
        time.sleep(0.3)
        raise DamagedShardError("no")

    def first() -> None:
        with pytest.raises(DamagedShardError):
            copies.fetch(digest, 1, fail, lambda data: None)

    thread = threading.Thread(target=first)
    thread.start()
    begun.wait()
    assert LocalCopies(tmp_path / "copies", 100).fetch(digest, 1, lambda: b"1", lambda data: None) == b"1"
    thread.join()
