"""A dump of a dataset: what of it the header pins, and what a restart notices."""

import json
from collections.abc import Callable
from pathlib import Path

import numpy as np
import pytest
from helpers import sentences, write_jsonl

from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.errors import CacheError
from kdcache.launcher import World
from kdcache.store.cache import open_cache

pytest.importorskip("datasets")

CARD = """---
configs:
- config_name: one
  data_files:
  - {split: train, path: a.jsonl}
  - {split: dev, path: b.jsonl}
---
"""


@pytest.fixture
def of_dataset(make_config: Callable[..., DumpConfig], tmp_path: Path) -> Callable[..., DumpConfig]:
    folder = tmp_path / "dataset"
    folder.mkdir()
    write_jsonl(folder / "a.jsonl", sentences(40))
    write_jsonl(folder / "b.jsonl", sentences(60)[40:])
    (folder / "README.md").write_text(CARD)

    def make(output: Path, **corpus: object) -> DumpConfig:
        dataset = {"paths": str(folder), "format": "datasets", "subset": "one"}
        return make_config(output, corpus={**dataset, **corpus})

    return make


def shards(cache: Path) -> dict[str, bytes]:
    return {str(path.relative_to(cache)): path.read_bytes() for path in sorted((cache / "shards").rglob("*.zip"))}


def test_the_same_bytes_as_of_its_files_and_at_two_ranks(
    of_dataset: Callable[..., DumpConfig], make_config: Callable[..., DumpConfig], tmp_path: Path
) -> None:
    run_dump(of_dataset(tmp_path / "one"), World())
    plain = {"paths": str(tmp_path / "dataset" / "a.jsonl"), "unit_rows": 10}
    run_dump(make_config(tmp_path / "plain", corpus=plain), World())
    for rank in (1, 0):
        run_dump(of_dataset(tmp_path / "two"), World(rank=rank, size=2))
    assert shards(tmp_path / "one") == shards(tmp_path / "two")
    cache, files = (open_cache(tmp_path / name) for name in ("one", "plain"))
    for unit in range(4):
        assert cache.manifest.shards[unit].source_sha256 == files.manifest.shards[unit].source_sha256
        arrays, plain_arrays = cache.read_shard(unit).arrays, files.read_shard(unit).arrays
        assert all(np.array_equal(values, plain_arrays[name]) for name, values in arrays.items())
    header = json.loads((tmp_path / "one" / "header.json").read_bytes())
    assert (header["compute"]["split"], header["compute"]["subset"]) == ("train", "one")


def test_another_split_in_a_begun_cache_is_refused(of_dataset: Callable[..., DumpConfig], tmp_path: Path) -> None:
    run_dump(of_dataset(tmp_path / "cache"), World())
    with pytest.raises(CacheError, match="split"):
        run_dump(of_dataset(tmp_path / "cache", split="dev"), World())
