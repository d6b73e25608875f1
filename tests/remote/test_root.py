"""Root on a real S3 server: every fault of the network is survived or told, no bucket is made, one writer creates."""

import re
import threading
import time
from pathlib import Path

import fsspec
import pytest
from remote.serving import FAULTS, Store

from kdcache.errors import CacheError, UnreadableError
from kdcache.store.files import Root


def test_write_read_list_delete(store: Store) -> None:
    root = Root(f"{store.url}/a")
    assert root.list() == root.list("shards") == ()
    root.write("shards/b", b"second")
    root.write("shards/a", b"first")
    root.write("shards/b", b"again")
    root.write("top", b"")
    assert root.read("shards/b", 5) == b"again"
    assert root.read("top", 0) == b""
    assert root.sizes("shards") == {"a": 5, "b": 5}
    assert root.list() == ("top",)
    assert root.size("shards/a") == 5
    root.delete(["shards/a", "shards/none"])
    assert root.list("shards") == ("b",)
    with pytest.raises(FileNotFoundError, match=r"a/none does not exist"):
        root.read("none")
    assert not [path for method, path in store.proxy.log if method == "PUT" and path.count("/") < 2]


def test_a_read_is_one_request(store: Store) -> None:
    root = Root(f"{store.url}/a")
    root.write("shard", bytes(100_000))
    store.proxy.reset()
    root.read("shard")
    assert store.proxy.counts == {("GET", ""): 1}


def test_more_files_than_a_page_of_a_listing(store: Store) -> None:
    for number in range(45):
        store.put(f"many/{number:06d}.json", b"x")
    assert len(Root(f"{store.url}/many").sizes()) == 45
    assert sum(method == "GET" for method, _ in store.proxy.log) == 3


@pytest.mark.parametrize("fault", FAULTS)
def test_every_request_survives_what_passes(fault: str, store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    """Each request fails once, or its answer is wrong once."""
    seen: set[tuple[str, str]] = set()

    def first(method: str, path: str) -> str | None:
        if (method, path) in seen or (fault == "flip" and method != "GET"):
            return None
        seen.add((method, path))
        return fault

    root, data = Root(f"{store.url}/a"), bytes(range(256)) * 40
    store.proxy.fault = first
    root.write("shards/a", data)
    assert root.read("shards/a", wrong=lambda got: got != data and "other bytes") == data
    if fault != "flip":  # of a listing no digest is known
        assert root.sizes("shards") == {"a": len(data)}
        assert root.create("b", b"new") == b"new"
        root.delete("shards/a")
    store.proxy.fault = None
    assert store.files("a/") == ({"shards/a": data} if fault == "flip" else {"b": b"new"})
    said = capfd.readouterr().err
    if fault != "close":  # which aiohttp itself mends: it sends the request again on a new connection
        assert re.search(r"cannot \w+ s3://\S+: .*; trying again in [\d.]+ s|fetching it again", said)
    assert sum(count for (_, name), count in store.proxy.counts.items() if name == fault)


def test_a_server_that_is_gone_for_a_while(store: Store) -> None:
    root = Root(f"{store.url}/a")
    root.write("x", b"1")
    store.proxy.gone(4)
    assert root.read("x") == b"1"


def test_a_server_that_stays_away_is_one_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCACHE_RETRY_SECONDS", "2")
    store.proxy.stop()
    try:
        begin = time.monotonic()
        with pytest.raises(UnreadableError, match=r"cannot read s3://.*/x: Could not connect .*; tried for 2 s: run"):
            Root(f"{store.url}/a").read("x")
        assert time.monotonic() - begin < 10
        with pytest.raises(UnreadableError, match="cannot list"):
            Root(f"{store.url}/a").list("shards")
        with pytest.raises(UnreadableError, match="cannot list"):
            Root(f"{store.url}/a").entries()
        with pytest.raises(CacheError, match="cannot write"):
            Root(f"{store.url}/a").write("x", b"")
    finally:
        store.proxy.start()


def test_no_bucket_is_made(store: Store) -> None:
    before = store.buckets()
    root = Root("s3://misspelt-bucket/a")
    for action in (lambda: root.read("x"), root.list, lambda: root.write("x", b"1"), lambda: root.create("x", b"1")):
        with pytest.raises(CacheError, match="there is no such bucket, and kdcache makes none") as raised:
            action()
        assert raised.value.exit_status == 2
    assert store.buckets() == before


def test_what_does_not_pass_is_said_at_once(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    store.proxy.fault = lambda method, path: None
    for name in ("AWS_ACCESS_KEY_ID", "AWS_SECRET_ACCESS_KEY"):
        monkeypatch.delenv(name)
    begin = time.monotonic()
    with pytest.raises(UnreadableError, match="Unable to locate credentials: set AWS_ACCESS_KEY_ID and"):
        Root(f"{store.url}/a").read("x")
    monkeypatch.setenv("AWS_PROFILE", "nobody")
    fsspec.get_filesystem_class("s3").clear_instance_cache()
    with pytest.raises(UnreadableError, match=r"The config profile \(nobody\) could not be found: set AWS_ACCESS"):
        Root(f"{store.url}/a").read("x")
    assert time.monotonic() - begin < 5


def test_no_permission_is_said_at_once(store: Store) -> None:
    store.proxy.fault = lambda method, path: "403"
    begin = time.monotonic()
    root = Root(f"{store.url}/a")
    for action in (lambda: root.read("x"), lambda: root.write("x", b""), root.list):
        with pytest.raises(CacheError, match=r"access denied \(.*\): check the credentials and what they may do"):
            action()
    assert time.monotonic() - begin < 5


@pytest.mark.parametrize("where", ["s3", "memory"])
def test_one_writer_creates(where: str, store: Store, tmp_path: Path) -> None:
    """Of many at once exactly one, and all get its bytes."""
    for number in range(5):
        url = f"{store.url}/{number}" if where == "s3" else f"memory://{tmp_path}/{number}"
        got: list[bytes] = []
        barrier = threading.Barrier(8)

        def create(writer: int, url: str = url, got: list[bytes] = got, barrier: threading.Barrier = barrier) -> None:
            barrier.wait()
            got.append(Root(url).create("x", b"%d" % writer))

        threads = [threading.Thread(target=create, args=(writer,)) for writer in range(8)]
        for thread in threads:
            thread.start()
        for thread in threads:
            thread.join()
        assert len(got) == 8
        assert set(got) == {Root(url).read("x")}
    if where == "s3":
        statuses = [path for method, path in store.proxy.log if method == "PUT"]
        assert len(statuses) == 40


def test_a_store_without_conditions_is_asked_first(store: Store) -> None:
    root = Root(f"{store.url}/a")
    store.proxy.fault = lambda method, path: "501" if method == "PUT" and store.proxy.conditional else None
    assert root.create("x", b"1") == b"1"
    assert root.create("x", b"2") == b"1"


def test_a_body_that_stays_wrong_is_read_three_times(store: Store, capfd: pytest.CaptureFixture[str]) -> None:
    root = Root(f"{store.url}/a")
    root.write("x", b"wrong")
    store.proxy.reset()
    assert root.read("x", wrong=lambda data: "no digest of ours") == b"wrong"
    assert store.proxy.counts == {("GET", ""): 3}
    assert capfd.readouterr().err.count("got wrong bytes of s3://") == 2
