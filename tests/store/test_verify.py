"""verify finds every fault and names its file; a sound cache has none."""

import re
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from store.making import CLASSES, write_cache

from kdcache import open_cache
from kdcache.errors import CacheError
from kdcache.store.backend import backend
from kdcache.store.builder import CacheBuilder
from kdcache.store.verify import Fault, verify
from kdcache.targets.dense import Dense
from kdcache.targets.kind import RecordKind


def test_a_sound_cache_has_no_fault(cache_folder: Path) -> None:
    done: list[int] = []
    assert verify(cache_folder, done.append) == []
    assert done == [1, 1, 1]


@pytest.mark.parametrize("spec", [None, Dense(logit_dtype="float32")])
def test_other_records_have_no_fault_either(tmp_path: Path, spec: RecordKind | None) -> None:
    write_cache(f"memory://{tmp_path}", record=spec)
    assert verify(f"memory://{tmp_path}") == []


def flip(path: Path) -> None:
    data = bytearray(path.read_bytes())
    data[len(data) // 2] ^= 1
    path.write_bytes(data)


def append(path: Path) -> None:
    path.write_bytes(path.read_bytes() + b" ")


@pytest.mark.parametrize(
    ("damage", "name", "what"),
    [
        (flip, "shards/000/000001{}", "got sha256"),
        (append, "shards/000/000001{}", "got .* bytes, expected"),
        (Path.unlink, "shards/000/000002{}", "is missing"),
        (append, "shards/000/000000.json", "is not what cache.json says"),
        (Path.unlink, "shards/000/000000.json", "is missing"),
        (Path.unlink, "header.json", "is missing"),
        (flip, "header.json", "is not what cache.json says"),
        (Path.touch, "shards/000/000009.json", "is not part of the cache"),
        (Path.touch, "shards/000/.000001.json.0123.tmp", "is left over from a killed writer"),
    ],
)
def test_each_fault_is_found_and_named(
    cache_folder: Path, backend_name: str, damage: Callable[[Path], None], name: str, what: str
) -> None:
    name = name.format(backend(backend_name).suffix)
    damage(cache_folder / name)
    (fault,) = verify(cache_folder)
    assert fault.shard == name
    assert re.search(what, fault.what)


def test_all_damaged_shards_are_listed(cache_folder: Path) -> None:
    for index in (0, 2):
        flip(next(path for path in cache_folder.glob(f"shards/000/{index:06d}.*") if path.suffix != ".json"))
    assert [fault.shard[:17] for fault in verify(cache_folder)] == ["shards/000/000000", "shards/000/000002"]


def test_an_unfinished_cache_raises(cache_folder: Path) -> None:
    (cache_folder / "cache.json").unlink()
    with pytest.raises(CacheError, match=r"cache\.json is missing; run kdcache verify .* --repair$"):
        verify(cache_folder)
    (cache_folder / ".kdcache" / "finished.json").unlink()
    with pytest.raises(CacheError, match="is not finished"):
        verify(cache_folder)


def shard_with(folder: Path, **changes: Callable[[np.ndarray], np.ndarray]) -> list[Fault]:
    """The faults of a cache of one shard of four examples whose arrays were wrong before they were committed."""
    write_cache(folder, 4, backend="arrow")
    return shard_of(folder, **changes)


def shard_of(folder: Path, **changes: Callable[[np.ndarray], np.ndarray]) -> list[Fault]:
    """The same of the first shard of a cache that is there."""
    cache = open_cache(folder)
    builder = CacheBuilder(folder, cache.manifest.header)
    arrays = cache.read_shard(0).arrays
    builder.commit(0, arrays | {name: change(arrays[name].copy()) for name, change in changes.items()})
    builder.finalize(1)
    return verify(folder)


def setting(value: object) -> Callable[[np.ndarray], np.ndarray]:
    def change(array: np.ndarray) -> np.ndarray:
        array.flat[0] = value
        return array

    return change


@pytest.mark.parametrize(
    ("changes", "what"),
    [
        ({"document_lengths": setting(99)}, "document lengths do not sum to the tokens of their example"),
        ({"positions": setting(1)}, "positions do not ascend inside their example"),
        ({"positions": setting(50)}, "positions do not ascend inside their example"),
        ({"ids": setting(CLASSES)}, f"ids go up to {CLASSES}, expected below {CLASSES}"),
        ({"maximum": setting(np.nan)}, "maximum holds NaN"),
    ],
)
def test_committed_nonsense_is_found(tmp_path: Path, changes: dict, what: str) -> None:
    (fault,) = shard_with(tmp_path / "cache", **changes)
    assert fault.shard == "shards/000/000000.arrow"
    assert f"is damaged: block 0: {what}; " in fault.what


def test_labels_out_of_range_are_found(tmp_path: Path) -> None:
    def above(tokens: np.ndarray) -> np.ndarray:
        return np.full_like(tokens, CLASSES + 3)

    first, second = shard_with(tmp_path / "cache", tokens=above)
    for block, fault in enumerate((first, second)):
        assert f"block {block}: labels go up to {CLASSES + 3}, expected below {CLASSES}; " in fault.what


def test_each_damaged_block_is_named_up_to_a_number_and_how_many_more_there_are(tmp_path: Path) -> None:
    """Ten examples in ten blocks; every one with a position is damaged, the first of them twice."""

    def moved(positions: np.ndarray) -> np.ndarray:
        return positions + 50

    def unknown(maximum: np.ndarray) -> np.ndarray:
        maximum[:1] = np.nan
        return maximum

    folder = tmp_path / "cache"
    write_cache(folder, 10, examples_per_shard=10, block_examples=1, backend="arrow")
    counts_B = open_cache(folder).read_shard(0).arrays["position_counts"]
    with_some = [block for block, count in enumerate(counts_B.tolist()) if count]
    faults = shard_of(folder, positions=moved, maximum=unknown)
    assert {fault.shard for fault in faults} == {"shards/000/000000.arrow"}
    words = [fault.what.partition(" is damaged")[2].partition("; run ")[0] for fault in faults]
    ascend = "positions do not ascend inside their example"
    assert words == [
        f": block {with_some[0]}: {ascend}, and 1 more fault",
        *(f": block {block}: {ascend}" for block in with_some[1:4]),
        f" in {len(with_some) - 4} more blocks",
    ]
