"""convert: the same records in the other format, and back again to the same bytes."""

from pathlib import Path

import pytest
from store.making import BACKENDS, same_arrays, tree, write_cache

from kdcache import open_cache
from kdcache.errors import CacheError, ConfigError, DamagedShardError
from kdcache.store.convert import convert
from kdcache.store.verify import verify
from kdcache.targets.dense import Dense
from kdcache.targets.kind import RecordKind
from kdcache.targets.sampled import Sampled


@pytest.mark.parametrize("spec", [Sampled(exact_top_k=5), None, Dense()])
def test_there_and_back_gives_the_same_bytes(tmp_path: Path, backend_name: str, spec: RecordKind | None) -> None:
    other = BACKENDS[BACKENDS.index(backend_name) - 1]
    write_cache(tmp_path / "first", record=spec, backend=backend_name)
    done: list[int] = []
    manifest = convert(tmp_path / "first", tmp_path / "second", other, done.append)
    assert done == [1, 1, 1]
    assert manifest.header.backend == other
    first, second = open_cache(tmp_path / "first"), open_cache(tmp_path / "second")
    assert same_arrays(first.read(0, 10).arrays, second.read(0, 10).arrays)
    assert verify(tmp_path / "second") == []
    convert(tmp_path / "second", tmp_path / "third", backend_name)
    assert tree(tmp_path / "third") == tree(tmp_path / "first")


def test_an_interrupted_conversion_goes_on(tmp_path: Path) -> None:
    write_cache(tmp_path / "source")

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        convert(tmp_path / "source", tmp_path / "target", "arrow", interrupt)
    before = (tmp_path / "target/shards/000/000000.arrow").stat().st_mtime_ns
    convert(tmp_path / "source", tmp_path / "target", "arrow")
    assert (tmp_path / "target/shards/000/000000.arrow").stat().st_mtime_ns == before
    convert(tmp_path / "source", tmp_path / "other", "arrow")
    assert tree(tmp_path / "target") == tree(tmp_path / "other")


def test_a_finished_target_is_refused(cache_folder: Path, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got TARGET .*, which is SOURCE"):
        convert(cache_folder, cache_folder, "arrow")
    write_cache(tmp_path / "other", seed=1, backend="arrow")
    with pytest.raises(CacheError, match="already holds another finished cache, expected a new folder"):
        convert(cache_folder, tmp_path / "other", "arrow")
    convert(cache_folder, tmp_path / "target", "arrow")
    before = {path: path.stat().st_mtime_ns for path in (tmp_path / "target" / "shards/000").iterdir()}
    convert(cache_folder, tmp_path / "target", "arrow")
    assert {path: path.stat().st_mtime_ns for path in (tmp_path / "target" / "shards/000").iterdir()} == before


def test_a_damaged_source_is_named(cache_folder: Path, tmp_path: Path) -> None:
    shard = next(path for path in cache_folder.glob("shards/000/000001.*") if path.suffix != ".json")
    shard.write_bytes(shard.read_bytes()[:-1])
    with pytest.raises(DamagedShardError, match=shard.name):
        convert(cache_folder, tmp_path / "target", "arrow")
    with pytest.raises(CacheError, match="is not finished: 1 units committed"):
        open_cache(tmp_path / "target")
