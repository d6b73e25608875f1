"""A tokenizer's identity is what a cache has pinned of it; its files are read only where the pins differ."""

import shutil
from pathlib import Path

import pytest
from helpers import make_tokenizer
from train.tiny import write_cache

from kdcache import Cache, open_cache
from kdcache.errors import CacheError
from kdcache.store.manifest import Manifest
from kdcache.students.same_tokenizer import check_same_tokenizer, check_tokenizer


@pytest.fixture
def cache(tmp_path: Path) -> Cache:
    make_tokenizer(tmp_path / "tokenizer")
    return open_cache(write_cache(tmp_path / "cache", examples=4, classes=320, tokenizer=tmp_path / "tokenizer"))


def pinned_otherwise(cache: Cache) -> Cache:
    """The same cache as a version of the libraries pinned it that writes a tokenizer's JSON in another way."""
    header = cache.manifest.header
    assert header.tokenizer is not None
    pin = header.tokenizer.model_copy(update={"behaviour_sha256": "0" * 64, "files": dict(header.tokenizer.files)})
    manifest: Manifest = cache.manifest.model_copy(update={"header": header.model_copy(update={"tokenizer": pin})})
    return Cache(cache.root, manifest)


def test_what_is_pinned_is_enough_to_know_the_tokenizer(cache: Cache, tmp_path: Path) -> None:
    shutil.rmtree(tmp_path / "cache" / "tokenizer")
    check_tokenizer(tmp_path / "tokenizer", cache)
    check_same_tokenizer(cache, cache)
    with pytest.raises(CacheError, match="is missing, expected the file with sha256"):
        check_tokenizer(tmp_path / "tokenizer", pinned_otherwise(cache))


def test_digests_of_other_libraries_refuse_nobody(cache: Cache, tmp_path: Path) -> None:
    check_tokenizer(tmp_path / "tokenizer", pinned_otherwise(cache))
    check_same_tokenizer(pinned_otherwise(cache), cache)
