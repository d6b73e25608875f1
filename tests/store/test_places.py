"""Shards lie in folders of 500 units, wherever a command names, lists, sweeps or copies them."""

import shutil
from pathlib import Path

import pytest
from store.making import tree, write_cache

from kdcache import open_cache
from kdcache.errors import CacheError
from kdcache.store.builder import CacheBuilder
from kdcache.store.convert import convert
from kdcache.store.files import Root
from kdcache.store.places import RECORD, record_name, shard_name
from kdcache.store.repair import sweep
from kdcache.store.verify import verify


@pytest.fixture(scope="module")
def wide(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """More shards than one folder holds."""
    folder = tmp_path_factory.mktemp("wide") / "cache"
    write_cache(folder, 503, examples_per_shard=1, record=None, backend="arrow")
    return folder


def test_no_folder_has_more_than_1000_entries(wide: Path) -> None:
    assert len([*(wide / "shards/000").iterdir()]) == 1000
    assert sorted(path.name for path in (wide / "shards/001").iterdir())[::2] == [
        f"{unit:06d}.arrow" for unit in (500, 501, 502)
    ]
    assert verify(wide) == []
    assert len(open_cache(wide).read(498, 503)) == 5


def test_names() -> None:
    header = open_cache(Path(__file__).parent / "golden/label_only-zarr").manifest.header
    assert shard_name(header, 499) == "shards/000/000499.zarr.zip"
    assert record_name(500) == "shards/001/000500.json"
    assert record_name(1_000_000) == "shards/2000/1000000.json"
    assert all(RECORD.fullmatch(record_name(unit)) for unit in (0, 99_999, 1_000_000))


@pytest.mark.parametrize("where", ["shards", "shards/000", "shards/001", "shards/007", "shards/mine"])
def test_strangers_and_leftovers_of_every_folder_are_found_and_swept(wide: Path, tmp_path: Path, where: str) -> None:
    folder = tmp_path / "cache"
    shutil.copytree(wide, folder)
    (folder / where).mkdir(exist_ok=True)
    for name in ("notes.txt", ".000501.json.0a.tmp"):
        (folder / where / name).write_text("x")
    faults = verify(folder, units=[])
    assert {fault.shard for fault in faults} == {f"{where}/notes.txt", f"{where}/.000501.json.0a.tmp"}
    assert sweep(Root(folder), [f"{where}/notes.txt"], force=True) == sorted(fault.shard for fault in faults)
    assert tree(folder) == tree(wide)


def test_a_restart_makes_the_lost_units_of_any_folder_and_convert_keeps_the_places(wide: Path, tmp_path: Path) -> None:
    folder, there, back = (tmp_path / name for name in ("cache", "there", "back"))
    shutil.copytree(wide, folder)
    (folder / "shards/001/000501.arrow").unlink()
    (folder / "shards/000/000007.json").unlink()
    with CacheBuilder(folder, open_cache(wide).manifest.header) as builder:
        assert {*range(503)} - builder.committed() == {7, 501}
        with pytest.raises(CacheError, match=r"2 of 503 units are missing, the first is 7;"):
            builder.finalize(503)
        builder.forget_beyond(501)
    assert sorted(path.name for path in folder.glob("shards/001/*")) == ["000500.arrow", "000500.json"]
    convert(wide, there, "zarr")
    convert(there, back, "arrow")
    shards = {name: data for name, data in tree(wide).items() if name.startswith("shards/")}
    assert {name: data for name, data in tree(back).items() if name.startswith("shards/")} == shards
