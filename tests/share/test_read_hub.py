"""A cache on the Hub is read there, as huggingface_hub's own client reads it; the Hub is a stand-in."""

from pathlib import Path

import pytest
from helpers import files_of
from hub_server import HubServer, Repo
from store.making import write_cache

from kdcache.errors import CacheError, UnreadableError
from kdcache.hub import HubPlace
from kdcache.store.cache import open_cache
from kdcache.store.verify import verify
from kdcache.stream.loader import Loader

URL = "hf://datasets/ann/cache"


def publish(hub: HubServer, folder: Path, path: str = "") -> None:
    """Put the files of a cache there without `kdcache push`."""
    repo = hub.repos.setdefault("ann/cache", Repo())
    repo.commit("main", {f"{path}{name}": data for name, data in files_of(folder).items()})


@pytest.mark.parametrize(
    ("url", "place"),
    [
        ("hf://datasets/a/b", HubPlace("dataset", "a/b")),
        ("hf://a/b@v1/x/y/", HubPlace("model", "a/b", "v1", "x/y")),
        ("hf://datasets/a/b@refs/pr/3/x", HubPlace("dataset", "a/b", "refs/pr/3", "x")),
        ("hf://datasets/a.b/c-d@feature%2Fx", HubPlace("dataset", "a.b/c-d", "feature/x")),
    ],
)
def test_urls(url: str, place: HubPlace) -> None:
    assert HubPlace.parse(url) == place
    assert HubPlace.parse(place.url) == place


def test_a_cache_is_read_by_ranges_of_one_commit(hub: HubServer, tmp_path: Path) -> None:
    write_cache(tmp_path / "cache")
    publish(hub, tmp_path / "cache")
    head = hub.repos["ann/cache"].branches["main"]
    cache = open_cache(URL, local_cache_gb=0)
    assert cache.root.url == f"{URL}@{head}"
    write_cache(tmp_path / "other", seed=1)
    publish(hub, tmp_path / "other")  # main moves, and nothing changes for who has opened
    expected = open_cache(tmp_path / "cache").read(0, 10)
    got = cache.read(0, 10)
    assert {name: array.tobytes() for name, array in got.arrays.items()} == {
        name: array.tobytes() for name, array in expected.arrays.items()
    }
    assert verify(cache.root.url) == []
    assert open_cache(URL).digest == open_cache(tmp_path / "other").digest


def test_a_block_is_one_request_for_its_bytes(hub: HubServer, tmp_path: Path) -> None:
    write_cache(tmp_path / "cache")
    publish(hub, tmp_path / "cache", "some/where/")
    cache = open_cache(f"{URL}@main/some/where", local_cache=tmp_path / "copies")
    cache.read_block(0, 0)
    hub.log.clear()
    cache.read_block(0, 1)
    assert [path.rpartition("/")[2] for _, path in hub.log] == ["000000.zarr.zip"] * 2  # the Hub, and where it sends to
    hub.log.clear()
    cache.read_block(0, 1)  # from the local copy
    assert hub.log == []


def test_bad_answers(hub: HubServer, tmp_path: Path) -> None:
    """Wrong bytes and half ones are fetched again."""
    write_cache(tmp_path / "cache")
    publish(hub, tmp_path / "cache")
    cache, faults = open_cache(URL, local_cache_gb=0), iter(["flip", "half", 503, "close"])
    hub.fault = lambda method, path: next(faults, None) if path.startswith("/cdn/") else None
    assert (
        cache.read(0, 10).arrays["tokens"].tobytes()
        == open_cache(tmp_path / "cache").read(0, 10).arrays["tokens"].tobytes()
    )
    assert next(faults, None) is None


def test_training_reads_it(hub: HubServer, tmp_path: Path) -> None:
    """The same batches as from the folder, over two epochs, with and without copies on the disk."""
    write_cache(tmp_path / "cache", 40)
    publish(hub, tmp_path / "cache")

    def batches(path: object, **settings: object) -> list[bytes]:
        with Loader(open_cache(str(path), **settings), global_batch=8, lanes=4) as loader:  # type: ignore[arg-type]
            return [
                b"".join(array.tobytes() for _, array in sorted(batch.arrays.items()))
                for _ in range(2 * loader.steps_per_epoch)
                for batch in next(loader)
            ]

    expected = batches(tmp_path / "cache")
    assert batches(URL, local_cache=tmp_path / "copies") == expected
    hub.log.clear()
    assert batches(URL, local_cache=tmp_path / "copies") == expected
    assert not [path for _, path in hub.log if path.startswith("/cdn/") and path.endswith(".zip")]


def test_what_is_not_there(hub: HubServer, tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    write_cache(tmp_path / "cache")
    publish(hub, tmp_path / "cache")
    for url, words in (
        ("hf://datasets/ann/none", "there is no dataset ann/none"),
        (f"{URL}@v9", "has no revision v9"),
        (f"{URL}/elsewhere", "is not a cache"),
        ("hf://datasets/ann", "expected hf://datasets/OWNER/NAME"),
    ):
        with pytest.raises(Exception, match=words) as found:
            open_cache(url)
        assert getattr(found.value, "exit_status", None) == 2, url
    hub.repos["ann/cache"].private = True
    monkeypatch.setenv("HF_TOKEN", hub.reader)
    with pytest.raises(CacheError, match=r"no dataset ann/cache that the account of your token may see \(404\)"):
        open_cache(URL)
    monkeypatch.delenv("HF_TOKEN")
    with pytest.raises(CacheError, match=r"that somebody without a token may see \(401\)"):
        open_cache(URL)
    monkeypatch.setenv("HF_TOKEN", "hf_wrongwrongwrongwrong")
    with pytest.raises(UnreadableError, match=r"access denied.*HF_TOKEN"):
        open_cache(URL)
    hub.fault = lambda method, path: 403
    with pytest.raises(UnreadableError, match=r"access denied.*HF_TOKEN"):
        open_cache(URL)


def test_no_network(hub: HubServer, monkeypatch: pytest.MonkeyPatch) -> None:
    from huggingface_hub import constants

    monkeypatch.setenv("KDCACHE_RETRY_SECONDS", "0.5")
    hub.fault = lambda method, path: "close"
    with pytest.raises(UnreadableError, match=r"cannot open hf://datasets/ann/cache: .*; tried for 0.5 s"):
        open_cache(URL)
    monkeypatch.setattr(constants, "HF_HUB_OFFLINE", True)
    hub.log.clear()
    with pytest.raises(UnreadableError, match="HF_HUB_OFFLINE is set"):
        open_cache(URL)
    assert hub.log == []
