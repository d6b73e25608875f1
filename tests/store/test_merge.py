"""merge: the shards of several caches in one, each as it was, and known by where it came from."""

from pathlib import Path

import numpy as np
import pytest
from store.forging import forge
from store.making import CLASSES, same_arrays, tokens_and_logits, tree, write_cache

from kdcache import CacheWriter, open_cache
from kdcache.errors import CacheError, ConfigError, DamagedShardError, KdcacheError
from kdcache.store.convert import convert
from kdcache.store.manifest import TeacherPin
from kdcache.store.merge import merge, origin
from kdcache.store.verify import verify
from kdcache.targets.dense import Dense
from kdcache.targets.kind import RecordKind
from kdcache.targets.sampled import Sampled


@pytest.mark.parametrize("spec", [Sampled(exact_top_k=5), None, Dense()])
def test_a_merged_cache_holds_the_examples_of_all(tmp_path: Path, backend_name: str, spec: RecordKind | None) -> None:
    for number, count in enumerate((10, 7, 1)):
        write_cache(tmp_path / str(number), count, seed=number, record=spec, backend=backend_name)
    sources = [tmp_path / str(number) for number in range(3)]
    done: list[int] = []
    manifest = merge(sources, tmp_path / "all", done.append)
    assert sum(done) == 6
    caches = [open_cache(path) for path in sources]
    merged, start = open_cache(tmp_path / "all"), 0
    for cache in caches:
        stop = start + len(cache)
        assert same_arrays(merged.read(start, stop).arrays, cache.read(0, len(cache)).arrays)
        start = stop
    assert len(merged) == start
    assert verify(tmp_path / "all") == []
    pins = manifest.header.sources
    assert pins is not None
    assert [pin.cache_sha256 for pin in pins] == [cache.digest for cache in caches]
    assert [pin.shards for pin in pins] == [3, 2, 1]
    places = [origin(manifest.header, unit) for unit in range(6)]
    assert places == [(pins[0], 0), (pins[0], 1), (pins[0], 2), (pins[1], 0), (pins[1], 1), (pins[2], 0)]
    before = tree(tmp_path / "all")
    merge(sources, tmp_path / "all")
    assert tree(tmp_path / "all") == before


def test_a_copied_shard_has_the_bytes_of_one_that_is_encoded_again(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch
) -> None:
    sources = [tmp_path / "a", tmp_path / "b"]
    for seed, source in enumerate(sources):
        write_cache(source, 10, seed=seed)
    merge(sources, tmp_path / "copied")
    monkeypatch.setattr("kdcache.store.rewrite.can_copy", lambda *headers: False)
    merge(sources, tmp_path / "encoded")
    assert tree(tmp_path / "copied") == tree(tmp_path / "encoded")


def test_merging_merged_caches_keeps_where_a_shard_came_from(tmp_path: Path) -> None:
    for name in "abc":
        write_cache(tmp_path / name, 5, seed=ord(name))
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "ab")
    manifest = merge([tmp_path / "c", tmp_path / "ab"], tmp_path / "cab")
    digests = {name: open_cache(tmp_path / name).digest for name in "abc"}
    found = [origin(manifest.header, unit) for unit in range(6)]
    expected = [(digests[name], unit) for name in "cab" for unit in range(2)]
    assert [(pin.cache_sha256, unit) for pin, unit in found if pin is not None] == expected


def test_an_interrupted_merge_goes_on(tmp_path: Path) -> None:
    sources = [tmp_path / "a", tmp_path / "b"]
    for seed, source in enumerate(sources):
        write_cache(source, 10, seed=seed)

    def interrupt(_: int) -> None:
        raise KeyboardInterrupt

    with pytest.raises(KeyboardInterrupt):
        merge(sources, tmp_path / "all", interrupt)
    first = next((tmp_path / "all/shards/000").glob("000000.zarr*"))
    before = first.stat().st_mtime_ns
    merge(sources, tmp_path / "all")
    assert first.stat().st_mtime_ns == before
    merge(sources, tmp_path / "again")
    assert tree(tmp_path / "all") == tree(tmp_path / "again")


def test_caches_of_both_backends_become_one_of_the_first(tmp_path: Path) -> None:
    write_cache(tmp_path / "a", 10)
    write_cache(tmp_path / "b", 10, seed=1)
    convert(tmp_path / "b", tmp_path / "b-arrow", "arrow")
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "one")
    manifest = merge([tmp_path / "a", tmp_path / "b-arrow"], tmp_path / "two")
    assert manifest.header.backend == "zarr"
    first, second = open_cache(tmp_path / "one"), open_cache(tmp_path / "two")
    assert same_arrays(first.read(0, 20).arrays, second.read(0, 20).arrays)
    assert verify(tmp_path / "two") == []


def test_what_does_not_fit_is_named(tmp_path: Path) -> None:
    write_cache(tmp_path / "a")
    other = {
        "records": ({"record": Dense()}, "it holds dense, expected sampled; .* the same records"),
        "settings": ({"record": Sampled(exact_top_k=6)}, "its records.* is 6, expected 5; .* record settings"),
        "task": ({"task": {"attention": "causal"}}, "its task.* is .*, expected .*same task"),
    }
    for name, (settings, words) in other.items():
        write_cache(tmp_path / name, **settings)
        with pytest.raises(CacheError, match=rf"{name} does not fit .*/a: {words}"):
            merge([tmp_path / "a", tmp_path / name], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"got 1 cache to merge, expected two or more"):
        merge([tmp_path / "a"], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"is the same cache as .*: expected each of them once"):
        merge([tmp_path / "a", tmp_path / "a"], tmp_path / "out")
    with pytest.raises(ConfigError, match=r"got --allow task, expected one of teacher, seed, libraries"):
        merge([tmp_path / "a", tmp_path / "records"], tmp_path / "out", allow=["task"])
    assert not (tmp_path / "out").exists()


def test_teachers_and_seeds_differ_where_that_is_meant(tmp_path: Path) -> None:
    write_cache(tmp_path / "a", teacher=TeacherPin(name="one", weights_sha256="0" * 64))
    two = TeacherPin(name="two", weights_sha256="1" * 64)
    record = Sampled(exact_top_k=5)
    with CacheWriter(tmp_path / "b", num_classes=CLASSES, record=record, block_examples=3, teacher=two, seed=3) as b:
        for tokens, logits in tokens_and_logits(7):
            b.add(tokens, logits)
    sources = [tmp_path / "a", tmp_path / "b"]
    with pytest.raises(CacheError, match=r"differ in teacher and seed: .*give --allow teacher --allow seed$"):
        merge(sources, tmp_path / "out")
    with pytest.raises(CacheError, match=r"differ in seed: seed is 3 and 0; where that is meant, give --allow seed$"):
        merge(sources, tmp_path / "out", allow=["teacher"])
    header = merge(sources, tmp_path / "out", allow=["teacher", "seed"]).header
    assert header.teacher is None
    assert header.sources is not None
    assert [pin.teacher and pin.teacher.name for pin in header.sources] == ["one", "two"]
    assert [pin.seed for pin in header.sources] == [0, 3]


def test_a_shard_of_another_cache_is_not_given_a_new_stamp(tmp_path: Path) -> None:
    """Its digest is right where a forger wrote the tables too; what it is part of says the shard itself."""
    for seed, name in enumerate("ab"):
        write_cache(tmp_path / name, 8, seed=seed)
    shards = sorted((tmp_path / "b/shards/000").glob("*.zarr.zip"))
    swapped = [path.read_bytes() for path in reversed(shards)]
    for path, data in zip(shards, swapped, strict=True):
        path.write_bytes(data)
    forge(tmp_path / "b")
    with pytest.raises(DamagedShardError, match=r"000000\.zarr\.zip is damaged: it is part of another whole"):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")


def test_a_damaged_source_is_named_and_the_rest_stays(tmp_path: Path, backend_name: str) -> None:
    for seed, name in enumerate("ab"):
        write_cache(tmp_path / name, backend=backend_name, seed=seed)
    shard = next(path for path in (tmp_path / "b").glob("shards/000/000001.*") if path.suffix != ".json")
    sound = shard.read_bytes()
    shard.write_bytes(bytes([*sound[:-1], sound[-1] ^ 1]))
    with pytest.raises(DamagedShardError, match=shard.name):
        merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    with pytest.raises(KdcacheError, match="is not finished: 4 units committed"):
        open_cache(tmp_path / "out")
    shard.write_bytes(sound)
    merge([tmp_path / "a", tmp_path / "b"], tmp_path / "out")
    assert verify(tmp_path / "out") == []
    assert np.array_equal(open_cache(tmp_path / "out").shard_examples, [4, 4, 2, 4, 4, 2])
