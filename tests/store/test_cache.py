"""Reading: any range, every fault found and named, remote shards kept locally within their bound."""

import json
import os
import shutil
import subprocess
import sys
from dataclasses import replace
from os import pread
from pathlib import Path

import fsspec
import numpy as np
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st
from store.forging import forge
from store.making import same_arrays, tree, write_cache

from kdcache import Cache, CacheWriter, open_cache
from kdcache.errors import CacheError, DamagedShardError
from kdcache.store.batch import concat
from kdcache.store.local_copies import LocalCopies
from kdcache.store.shards import Shards, with_shards
from kdcache.store.verify import verify as verify_cache

ON_FIXTURES = settings(suppress_health_check=[HealthCheck.function_scoped_fixture])


def shard_path(folder: Path, index: int) -> Path:
    return next(path for path in folder.glob(f"shards/000/{index:06d}.*") if path.suffix != ".json")


def edit_manifest(folder: Path, change) -> None:
    path = folder / "cache.json"
    values = json.loads(path.read_bytes())
    change(values)
    path.write_text(json.dumps(values, sort_keys=True, indent=1) + "\n")


def test_read_every_range(tmp_path: Path) -> None:
    write_cache(tmp_path, 7, examples_per_shard=3, record=None, backend="arrow")
    cache = open_cache(tmp_path)
    whole = concat([cache.read_shard(index) for index in range(3)])
    for start in range(8):
        for stop in range(start, 8):
            assert same_arrays(cache.read(start, stop).arrays, whole.slice(start, stop).arrays)


def test_blocks_are_the_examples_of_a_shard_in_order(cache_folder: Path) -> None:
    cache = open_cache(cache_folder)
    for shard, size in enumerate(cache.block_examples):
        whole = cache.read_shard(shard)
        blocks = [cache.read_block(shard, block) for block in range(-(-len(whole) // int(size)))]
        assert all(len(block) == size for block in blocks[:-1])
        assert 0 < len(blocks[-1]) <= size
        assert same_arrays(concat(blocks).arrays, whole.arrays)


def test_a_cache_of_no_shards_reads_as_no_examples(tmp_path: Path) -> None:
    CacheWriter(tmp_path, num_classes=5).builder.finalize(0)
    cache = open_cache(tmp_path)
    assert len(cache) == len(cache.read(0, 0)) == cache.num_positions == 0


@pytest.mark.parametrize(("start", "stop"), [(-1, 2), (3, 2), (0, 11), (11, 11)])
def test_ranges_outside_are_refused(cache_folder: Path, start: int, stop: int) -> None:
    with pytest.raises(IndexError, match=f"got examples {start} to {stop}, expected 0 <= start <= stop <= 10"):
        open_cache(cache_folder).read(start, stop)


@given(data=st.data())
@ON_FIXTURES
def test_a_flipped_byte_of_a_block_is_found_and_named(cache_folder: Path, data: st.DataObject) -> None:
    path = shard_path(cache_folder, 1)
    sound, commit = path.read_bytes(), open_cache(cache_folder).manifest.shards[1]
    number = data.draw(st.integers(0, 1))
    block, change = commit.block(number), data.draw(st.integers(1, 255))
    place = data.draw(st.integers(block.start, block.stop - 1))
    path.write_bytes(sound[:place] + bytes([sound[place] ^ change]) + sound[place + 1 :])
    try:
        cache = open_cache(cache_folder)
        cache.read(0, 4)
        with pytest.raises(DamagedShardError, match=rf"{path.name} is damaged: got sha256 .*, expected .*--repair"):
            cache.read_block(1, number)
        with pytest.raises(DamagedShardError, match=rf"{path.name} is damaged: got sha256 .*, expected .*--repair"):
            cache.read_shard(1)
        assert len(cache.read_block(1, 1 - number)) == 3 - 2 * (1 - number)
    finally:
        path.write_bytes(sound)


@given(data=st.data())
@ON_FIXTURES
def test_a_flipped_byte_anywhere_is_found_by_verify(cache_folder: Path, data: st.DataObject) -> None:
    path = shard_path(cache_folder, 1)
    sound = path.read_bytes()
    place, change = data.draw(st.integers(0, len(sound) - 1)), data.draw(st.integers(1, 255))
    path.write_bytes(sound[:place] + bytes([sound[place] ^ change]) + sound[place + 1 :])
    try:
        (fault,) = verify_cache(cache_folder)
        assert f"{path.name} is damaged: got sha256" in fault.what
    finally:
        path.write_bytes(sound)


def test_a_block_is_read_and_nothing_else(cache_folder: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    """What lies elsewhere in the file may be anything."""
    cache, read = open_cache(cache_folder), []
    monkeypatch.setattr(os, "pread", lambda *of: read.append(of[1:]) or pread(*of))
    for shard, commit in enumerate(cache.manifest.shards):
        path = shard_path(cache_folder, shard)
        sound = path.read_bytes()
        for number in range(len(commit.blocks)):
            block = commit.block(number)
            path.write_bytes(bytes(block.start) + sound[block.start : block.stop] + bytes(len(sound) - block.stop))
            assert len(cache.read_block(shard, number)) == min(3, commit.examples - 3 * number)
            assert read == [(block.bytes, block.start)]
            read.clear()


@pytest.mark.parametrize("verify", [True, False])
def test_truncated_and_missing_shards_are_named(cache_folder: Path, verify: bool) -> None:
    path = shard_path(cache_folder, 2)
    size = path.stat().st_size
    path.write_bytes(path.read_bytes()[:-1])
    cache = open_cache(cache_folder, verify=verify)
    with pytest.raises(DamagedShardError, match=rf"{path.name} is damaged: got {size - 1} bytes, expected {size}"):
        cache.read_shard(2)
    path.unlink()
    with pytest.raises(DamagedShardError, match=rf"{path.name} is missing; run kdcache verify .* --repair"):
        cache.read_shard(2)


def test_without_verify_a_shard_that_cannot_be_decoded_is_still_named(cache_folder: Path) -> None:
    path = shard_path(cache_folder, 0)
    path.write_bytes(bytes(path.stat().st_size))
    with pytest.raises(DamagedShardError, match=rf"{path.name} is damaged: "):
        open_cache(cache_folder, verify=False).read_shard(0)


def test_a_sound_file_with_other_counts_is_refused(cache_folder: Path) -> None:
    """A shard that decodes, under a manifest that says something else of it."""
    cache = open_cache(cache_folder)
    table = cache.manifest.shards.table
    columns = {**table.columns, "positions": table["positions"] + 1}
    shards = Shards(cache.root, cache.manifest.header, replace(table, columns=columns))
    with pytest.raises(DamagedShardError, match=r"000000\S+ is damaged: .*; .*--repair"):
        Cache(cache.root, with_shards(cache.manifest, shards)).read_shard(0)


def test_an_unfinished_cache_says_how_far_it_is(cache_folder: Path) -> None:
    (cache_folder / "cache.json").unlink()
    (cache_folder / ".kdcache" / "finished.json").unlink()
    shard_path(cache_folder, 2).with_name("000002.json").unlink()
    with pytest.raises(CacheError, match=r"is not finished: 2 units committed; .*run kdcache dump-logits dump.yaml"):
        open_cache(cache_folder)


@pytest.mark.parametrize("path", ["nowhere", "memory://nowhere"])
def test_what_is_no_cache_is_refused(path: str) -> None:
    with pytest.raises(CacheError, match=r"nowhere is not a cache: it has no cache.json; expected a folder made by"):
        open_cache(path)


def test_a_newer_format_is_refused(cache_folder: Path) -> None:
    edit_manifest(cache_folder, lambda values: values["header"].update(format_version=2, invented=1))
    with pytest.raises(CacheError, match=r"cache.json has format version 2, expected at most 1: update kdcache"):
        open_cache(cache_folder)


@pytest.mark.parametrize("name", ["../secret", "/etc/hostname", "shards/../../secret"])
def test_no_file_of_a_cache_leads_outside(cache_folder: Path, name: str) -> None:
    (cache_folder.parent / "secret").write_bytes(b"")
    forge(cache_folder, lambda values: values["shards"][0].update(file=name))
    with pytest.raises(DamagedShardError, match="expected a relative path inside the cache"):
        open_cache(cache_folder).read_shard(0)
    edit_manifest(cache_folder, lambda values: values["table"].update(file=name))
    with pytest.raises(CacheError, match=r"table\.file: Input should be 'shards\.arrow'"):
        open_cache(cache_folder)


@pytest.mark.parametrize(
    ("change", "message"),
    [
        (lambda values: values["totals"].update(positions=1), "positions, where the totals of cache.json say 1"),
        (lambda values: values["totals"].update(shards=2), r"got 3 rows, expected 2"),
        (
            lambda values: values["totals"].update(shards=99),
            r"is damaged: table: got \d+ bytes, expected at least 156 for",
        ),
        (lambda values: values["table"].update(sha256="0" * 64), r" has sha256 .*, expected 0000"),
        (lambda values: values["table"].update(bytes=2300), r"got \d+ bytes, expected"),
        (lambda values: values.pop("table"), "is damaged: table: Field required"),
        (lambda values: values["header"].update(format="other"), "is damaged: header.format: "),
    ],
)
def test_a_manifest_that_contradicts_itself_is_refused(cache_folder: Path, change, message: str) -> None:
    edit_manifest(cache_folder, change)
    with pytest.raises(CacheError, match=rf"(cache\.json|shards\.arrow).*{message}"):
        open_cache(cache_folder)


def test_remote_shards_are_fetched_once_and_checked(tmp_path: Path) -> None:
    url = f"memory://{tmp_path}/cache"
    write_cache(url)
    expected = open_cache(url, local_cache_gb=0).read(0, 10)
    files = fsspec.filesystem("memory")
    copies = tmp_path / "copies"
    assert same_arrays(open_cache(url, local_cache=copies).read(0, 10).arrays, expected.arrays)
    for path in files.glob(f"{tmp_path}/cache/shards/*/*.zip"):
        files.pipe_file(path, b"gone bad")
    assert same_arrays(open_cache(url, local_cache=copies).read(0, 10).arrays, expected.arrays)
    with pytest.raises(DamagedShardError, match=r"memory://.*000000.zarr.zip is damaged: got 0 bytes at"):
        open_cache(url, local_cache=tmp_path / "none").read(0, 1)


def test_a_damaged_copy_is_fetched_again(tmp_path: Path) -> None:
    url, copies = f"memory://{tmp_path}/cache", tmp_path / "copies"
    write_cache(url)
    expected = open_cache(url, local_cache=copies).read_shard(0)
    sound = tree(copies)
    for path in (path for path in copies.iterdir() if path.is_file()):
        path.write_bytes(bytes(path.stat().st_size))
    assert same_arrays(open_cache(url, local_cache=copies).read_shard(0).arrays, expected.arrays)
    assert tree(copies) == sound


def test_remote_copies_go_to_the_users_cache_folder(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("XDG_CACHE_HOME", str(tmp_path / "home"))
    url = f"memory://{tmp_path}/cache"
    write_cache(url)
    cache = open_cache(url)
    cache.read_shard(0)
    assert (tmp_path / "home/kdcache/shards" / cache.manifest.shards[0].block(0).sha256).exists()
    shutil.rmtree(tmp_path / "home")
    write_cache(tmp_path / "local")
    open_cache(tmp_path / "local").read_shard(0)
    assert not (tmp_path / "home").exists()


def test_a_use_saves_a_copy_from_being_the_next_to_go(tmp_path: Path) -> None:
    copies, (a, b, c) = LocalCopies(tmp_path / "copies", 2), (letter * 64 for letter in "abc")
    copies.put(a, b"1")
    copies.put(b, b"2")
    assert copies.get(a) == b"1"
    copies.put(c, b"3")
    assert [copies.get(name) for name in (a, b, c)] == [b"1", None, b"3"]


@given(
    sizes=st.lists(st.integers(1, 40), min_size=1, max_size=8),
    uses=st.lists(st.integers(0, 7), max_size=30),
    bound=st.integers(0, 100),
)
def test_copies_stay_in_their_bound_and_the_least_recent_go(
    tmp_path_factory, sizes: list[int], uses: list[int], bound: int
) -> None:
    copies = LocalCopies(tmp_path_factory.mktemp("copies"), bound)
    recent: list[int] = []
    for number in (use % len(sizes) for use in uses):
        held = copies.get(f"{number:064x}") is not None
        assert held == (number in recent)
        if held:
            recent.remove(number)
        else:
            copies.put(f"{number:064x}", bytes(sizes[number]))
        if sizes[number] <= bound:
            recent.append(number)
        while sum(sizes[n] for n in recent) > bound:
            recent.pop(0)
        held_files = [path for path in copies.disk.folder.iterdir() if path.name != "lock"]
        assert sum(path.stat().st_size for path in held_files) <= bound
        assert {int(path.name, 16) for path in held_files} == set(recent)


IMPORTS = """
import sys
import kdcache.store.cache, kdcache.store.writer, kdcache.store.verify, kdcache.store.convert
from kdcache.store.cache import read_manifest
from kdcache.store.files import Root
assert read_manifest(Root(sys.argv[1])).totals.examples == 10
heavy = {"torch", "transformers", "deepspeed", "zarr", "numcodecs", "pandas", "fsspec"} & {*sys.modules}
assert not heavy, heavy
"""


def test_a_manifest_is_read_without_heavy_imports(tmp_path: Path) -> None:
    write_cache(tmp_path)
    environment = {"PYTHONPATH": ":".join(sys.path)}
    done = subprocess.run([sys.executable, "-c", IMPORTS, tmp_path], env=environment, capture_output=True, text=True)
    assert done.returncode == 0, done.stderr


def test_shard_examples_and_digest(cache_folder: Path) -> None:
    cache = open_cache(cache_folder)
    assert cache.shard_examples.dtype == np.int64
    assert cache.digest == cache.manifest.digest()
    assert len(cache) == cache.shard_examples.sum() == 10
