"""A dump of a dataset: what of it the header pins, and what a restart notices."""

import json
import os
from collections.abc import Callable, Iterator
from pathlib import Path

import numpy as np
import pytest
from helpers import kdcache, make_tokenizer, sentences, write_jsonl
from hub_server import HubServer

from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.errors import CacheError
from kdcache.launcher import World
from kdcache.store.cache import open_cache
from kdcache.tasks.tokenizer import load_tokenizer

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


@pytest.fixture
def hub() -> Iterator[HubServer]:
    server = HubServer()
    server.start()
    yield server
    server.stop()


def test_a_dump_of_a_dataset_on_a_hub_stays_at_its_commit(hub: HubServer, tmp_path: Path) -> None:
    """Against a stand-in: the branch moves while a dump is half done."""
    for name, texts in (("first", sentences(40)), ("second", sentences(80)[40:])):
        (tmp_path / name).mkdir()
        write_jsonl(tmp_path / name / "train.jsonl", texts)
    first = hub.commit_folder("ann/texts", tmp_path / "first")
    config = tmp_path / "dump.yaml"
    config.write_text(
        f"output: {tmp_path}/cache\ncorpus: {{paths: ann/texts, format: datasets, unit_rows: 10}}\n"
        f"teacher: none\ntokenizer: {tmp_path}/tokenizer\ntask: {{sequence_length: 64}}\n"
    )
    make_tokenizer(tmp_path / "tokenizer")
    environment = {**os.environ, **hub.environment(tmp_path)}

    def dump(*arguments: str) -> str:
        return kdcache("dump-logits", config, *arguments, env=environment).stderr

    dump("--rank", "0", "--world-size", "2")
    second = hub.commit_folder("ann/texts", tmp_path / "second")
    assert second != first
    refused = dump("-o", f"corpus.revision={second}")
    assert refused.count("\n") == 1, refused
    assert "revision" in refused
    dump()
    cache = open_cache(tmp_path / "cache")
    assert cache.manifest.header.compute["revision"] == first
    tokens = np.concatenate([cache.read(i, i + 1).tokens(0) for i in range(len(cache))])
    read = load_tokenizer(tmp_path / "tokenizer").decode(tokens)
    assert [text for text in read.split("<|end|>") if text] == sentences(40)
    assert hub.ranges == {"train.jsonl"}
    lost = dump("-o", "corpus.revision=nowhere", "-o", f"output={tmp_path}/other")
    assert lost.count("\n") == 1, lost
    assert "cannot find the dataset ann/texts at revision nowhere on the hub" in lost
