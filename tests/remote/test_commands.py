"""The commands on caches and corpora of an S3 store, under each fault: the same bytes as on a disk, or one line."""

import os
import random
import signal
import subprocess
import sys
import time
from collections.abc import Callable, Iterator
from pathlib import Path

import pytest
from helpers import files_of
from remote.serving import FAULTS, Run, Store, only

from kdcache.store.cache import open_cache
from kdcache.stream.loader import Loader


def plain(files: dict[str, bytes]) -> dict[str, bytes]:
    """Without marks and locks, which say when and by whom, and without what the settings file alone decides."""
    return {name: data for name, data in files.items() if not name.startswith((".kdcache/", "work/"))}


def on_a_disk(run: Run, config: Path, folder: Path) -> dict[str, bytes]:
    """What the same dump writes from a disk to a disk."""
    rows = config.with_name("rows.jsonl")
    status, said = run("dump-logits", config, "-o", f"output={folder}", "-o", f"corpus.paths={rows}")
    assert status == 0, said
    return plain(files_of(folder))


def now_and_then(fault: str, share: float, seed: int = 0) -> Callable[[str, str], str | None]:
    """This fault, at random. Wrong bytes only where a digest or checksum is known: not in listings."""
    rng = random.Random(seed)

    def choose(method: str, path: str) -> str | None:
        if fault == "flip" and (method != "GET" or "list-type" in path or not path.endswith((".zip", ".jsonl"))):
            return None
        return fault if rng.random() < share else None

    return choose


def batches(url: str, copies: Path | None = None) -> Iterator[bytes]:
    """Two epochs as training reads them."""
    cache = open_cache(url, local_cache=copies, local_cache_gb=0 if copies is None else 1)
    with Loader(cache, global_batch=8, lanes=4) as loader:
        for _ in range(2 * loader.steps_per_epoch):
            for batch in next(loader):
                yield b"".join(array.tobytes() for _, array in sorted(batch.arrays.items()))


def test_every_command_under_faults(store: Store, run: Run, config: Path, tmp_path: Path) -> None:
    """A twelfth of all answers is bad, in any way: dump, dump again, verify, inspect, read as training, convert."""
    expected = on_a_disk(run, config, tmp_path / "cache")
    order = [*batches(str(tmp_path / "cache"))]
    ways = [now_and_then(fault, 1.0) for fault in FAULTS]
    rng = random.Random(0)
    store.proxy.fault = lambda method, path: rng.choice(ways)(method, path) if rng.random() < 1 / 12 else None
    use_everything(store, run, config, f"{store.url}/cache", expected, order)


@pytest.mark.long
@pytest.mark.parametrize("fault", FAULTS)
@pytest.mark.parametrize("share", [0.1, 0.2, 0.3])
def test_every_command_under_every_fault(
    fault: str, share: float, store: Store, run: Run, config: Path, tmp_path: Path
) -> None:
    """So many of all answers are bad in this way; prints the counts."""
    expected = on_a_disk(run, config, tmp_path / "cache")
    order = [*batches(str(tmp_path / "cache"))]
    store.proxy.fault = now_and_then(fault, share)
    begin = time.monotonic()
    commands = use_everything(store, run, config, f"{store.url}/cache", expected, order)
    requests = sum(store.proxy.counts.values())
    bad = sum(count for (_, name), count in store.proxy.counts.items() if name)
    print(
        f"s3, {fault} at {share:.0%}: {commands} commands, {requests} requests, {bad} bad, 0 bytes lost, 0 wrong, "
        f"0 tracebacks, 0 hangs, {time.monotonic() - begin:.0f} s in all"
    )


def use_everything(
    store: Store, run: Run, config: Path, output: str, expected: dict[str, bytes], order: list[bytes]
) -> int:
    """Each command that reads or writes a cache, with what it must give; how many there were."""
    status, said = run("dump-logits", config, "-o", f"output={output}")
    assert status == 0, said
    assert plain(store.files("cache/")) == expected
    status, said = run("dump-logits", config, "-o", f"output={output}")
    assert (status, "finished already" in said) == (0, True), said
    status, said = run("verify", output)
    assert (status, "every digest and count is right" in said) == (0, True), said
    assert run("inspect", output)[0] == 0
    assert [*batches(output)] == order
    status, said = run("convert", output, f"{output}-arrow", "--to", "arrow")
    assert status == 0, said
    status, said = run("verify", f"{output}-arrow")
    assert status == 0, said
    return 7


@pytest.mark.long
def test_a_server_that_is_gone_for_ten_seconds(store: Store, run: Run, config: Path, tmp_path: Path) -> None:
    expected = on_a_disk(run, config, tmp_path / "cache")
    order = [*batches(str(tmp_path / "cache"))]
    store.proxy.gone(10)
    assert run("dump-logits", config)[0] == 0
    store.proxy.back()
    assert plain(store.files("cache/")) == expected
    store.proxy.gone(10)
    assert run("verify", f"{store.url}/cache")[0] == 0
    store.proxy.back()
    reading = batches(f"{store.url}/cache")
    first = next(reading)
    store.proxy.gone(10)
    assert [first, *reading] == order


def test_a_dump_that_is_killed_goes_on(store: Store, run: Run, config: Path, tmp_path: Path) -> None:
    """By SIGKILL at its fifth write, when the store has the object and the dump does not know it."""
    expected = on_a_disk(run, config, tmp_path / "cache")
    killed_at_write(store, config, 5)
    status, said = run("dump-logits", config)
    assert status == 0, said
    assert plain(store.files("cache/")) == expected


@pytest.mark.long
def test_a_dump_is_killed_at_every_write(store: Store, run: Run, config: Path, tmp_path: Path) -> None:
    """Before and after the store has the object; prints the counts."""
    expected = on_a_disk(run, config, tmp_path / "cache")
    runs, slowest = 0, 0.0
    for number in range(1, 2 * len(expected)):
        for name in store.files("cache/"):
            store.client.delete_object(Bucket=store.bucket, Key=f"cache/{name}")
        if not killed_at_write(store, config, number):
            break
        begin = time.monotonic()
        status, said = run("dump-logits", config)
        assert status == 0, said
        slowest = max(slowest, time.monotonic() - begin)
        runs += 1
        assert plain(store.files("cache/")) == expected, number
    assert runs >= len(expected) - 1
    print(f"kills of a dump to s3: {runs} runs, 0 bytes lost, 0 wrong, 0 tracebacks, longest recovery {slowest:.1f} s")


def killed_at_write(store: Store, config: Path, number: int) -> bool:
    """Run a dump as a process of its own and kill it at that write; False where it ends before."""
    begun = subprocess.Popen(
        [sys.executable, "-m", "kdcache", "dump-logits", config],
        env=store.env | {"PYTHONPATH": os.pathsep.join(filter(None, sys.path))},
        stderr=subprocess.PIPE,
        stdout=subprocess.DEVNULL,
        text=True,
    )
    writes = 0

    def kill(method: str, path: str) -> str | None:
        nonlocal writes
        writes += method == "PUT"
        if method == "PUT" and writes == number:
            begun.send_signal(signal.SIGKILL)
        return None

    store.proxy.fault = kill
    _, said = begun.communicate(timeout=240)
    store.proxy.fault = None
    assert begun.returncode in (0, -signal.SIGKILL), said
    return begun.returncode != 0


@pytest.mark.parametrize("command", ["verify", "inspect", "convert", "dump"])
def test_a_store_that_fails_for_good_is_one_line(
    command: str, store: Store, run: Run, config: Path, tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    """And nothing is advised to be deleted, repaired or dumped again."""
    assert run("dump-logits", config)[0] == 0
    before = store.files("cache/")
    monkeypatch.setenv("KDCACHE_RETRY_SECONDS", "1")
    arguments = {"convert": ["--to", "arrow"]}.get(command, [])
    target = {"convert": [f"{store.url}/other"]}.get(command, [])
    name, what = ("dump-logits", config) if command == "dump" else (command, f"{store.url}/cache")
    for path in ("", ".zip"):
        if path and command in ("inspect", "dump"):
            continue  # they read no shard
        store.proxy.fault = lambda method, url, path=path: "500" if url.endswith(path) else None
        status, said = run(name, what, *target, *arguments)
        assert status == 1, said
        assert "tried for 1 s: run the same command again when the server answers" in only(said)
        assert "--repair" not in said
        assert "damaged" not in said.replace("nothing says that a file is damaged", "")
    store.proxy.fault = None
    assert store.files("cache/") == before


def test_wrong_credentials_and_buckets_are_one_line(
    store: Store, run: Run, config: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    buckets = store.buckets()
    for output in ("s3://misspelt-bucket/cache",):
        assert run("dump-logits", config, "-o", f"output={output}")[0] == 2
        assert run("verify", output)[0] == 2
        assert run("convert", output, f"{store.url}/other", "--to", "arrow")[0] == 2
    assert run("dump-logits", config, "-o", "corpus.paths=s3://misspelt-bucket/a.jsonl")[0] == 2
    assert store.buckets() == buckets
    store.proxy.fault = lambda method, path: "403"
    for command in (("dump-logits", config), ("verify", f"{store.url}/cache"), ("inspect", f"{store.url}/cache")):
        status, said = run(*command)
        assert status == 1
        assert "access denied" in only(said)
