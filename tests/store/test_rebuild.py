"""A lost commit record is made again of its shard and the table, for every kind of record and backend."""

import shutil
from pathlib import Path

import pytest

from kdcache.store.cache import read_manifest
from kdcache.store.files import Root
from kdcache.store.places import record_name
from kdcache.store.rebuild import rebuilt_record

GOLDEN = sorted(path.parent for path in (Path(__file__).parent / "golden").glob("*/cache.json"))


@pytest.mark.parametrize("golden", GOLDEN, ids=lambda folder: folder.name)
def test_a_lost_record_is_made_again(golden: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(golden, tmp_path / "cache"))
    root, manifest = Root(cache), read_manifest(Root(cache))
    for unit in range(len(manifest.shards)):
        lost = cache / record_name(unit)
        before = lost.read_bytes()
        lost.unlink()
        assert rebuilt_record(root, manifest, unit) == before


def test_a_damaged_shard_gives_no_record(tmp_path: Path) -> None:
    cache = Path(shutil.copytree(GOLDEN[0], tmp_path / "cache"))
    manifest = read_manifest(Root(cache))
    shard = cache / manifest.shards.file(0)
    shard.write_bytes(shard.read_bytes()[:-1] + b"x")
    assert rebuilt_record(Root(cache), manifest, 0) is None
    shard.unlink()
    assert rebuilt_record(Root(cache), manifest, 0) is None
