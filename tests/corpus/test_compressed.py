"""Compressed files are read as what they hold."""

import bz2
import gc
import gzip
import lzma
import tempfile
from collections.abc import Callable

import pyarrow as pa
import pytest
from one_column import open_corpus

from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import CorpusError


def zstd(data: bytes) -> bytes:
    target = pa.BufferOutputStream()
    with pa.CompressedOutputStream(target, "zstd") as stream:
        stream.write(data)
    return target.getvalue().to_pybytes()


COMPRESSORS = {"gz": gzip.compress, "bz2": bz2.compress, "xz": lzma.compress, "zst": zstd}


@pytest.fixture(params=COMPRESSORS)
def compressed(request: pytest.FixtureRequest) -> tuple[str, Callable[[bytes], bytes]]:
    return request.param, COMPRESSORS[request.param]


def test_rows_digests_and_places_are_those_of_the_plain_file(tmp_path, written, compressed):
    format, suffix, write = written
    ending, compress = compressed
    texts = [f"row {row}" for row in range(7)]
    content = write(texts)
    (tmp_path / "plain").mkdir()
    (tmp_path / "plain" / f"a.{suffix}").write_bytes(content)
    (tmp_path / "packed").mkdir()
    (tmp_path / "packed" / f"a.{suffix}.{ending}").write_bytes(compress(content))
    plain, packed = (
        open_corpus(CorpusConfig(paths=str(tmp_path / name), format=format, unit_rows=3), tmp_path / "index")
        for name in ("plain", "packed")
    )
    assert [packed.unit(unit)["text"].to_pylist() for unit in range(3)] == [texts[:3], texts[3:6], texts[6:]]
    assert [packed.unit_sha256(unit) for unit in range(3)] == [plain.unit_sha256(unit) for unit in range(3)]
    assert packed.where(1, 1) == plain.where(1, 1).replace(suffix, f"{suffix}.{ending}")
    assert packed.pin["bytes"] == plain.pin["bytes"]


def test_several_members_are_one_file_and_a_copy_serves_again(tmp_path, compressed):
    ending, compress = compressed
    path = tmp_path / f"a.jsonl.{ending}"
    path.write_bytes(compress(b'{"text": "a"}\n') + compress(b'{"text": "b"}\n'))
    config = CorpusConfig(paths=str(tmp_path), format="jsonl")
    first = open_corpus(config, tmp_path / "index")
    assert first.unit(0)["text"].to_pylist() == ["a", "b"]
    (copy,) = (tmp_path / "index").glob("*.plain")
    made = copy.stat().st_mtime_ns
    assert open_corpus(config, tmp_path / "index").pin == first.pin
    assert copy.stat().st_mtime_ns == made
    path.write_bytes(compress(b'{"text": "c"}\n'))
    assert open_corpus(config, tmp_path / "index").unit(0)["text"].to_pylist() == ["c"]


def test_without_an_index_the_copy_goes_with_the_corpus(tmp_path, monkeypatch):
    monkeypatch.setattr(tempfile, "tempdir", str(tmp_path / "temporary"))
    (tmp_path / "a.txt.gz").write_bytes(gzip.compress(b"some text"))
    corpus = open_corpus(CorpusConfig(paths=str(tmp_path), format="text"))
    assert corpus.unit(0)["text"].to_pylist() == ["some text"]
    assert [*(tmp_path / "temporary").rglob("*.plain")]
    del corpus
    gc.collect()
    assert not [*(tmp_path / "temporary").rglob("*")]


@pytest.mark.parametrize("damage", ["cut", "other", "empty"])
def test_what_does_not_decompress(tmp_path, compressed, damage):
    ending, compress = compressed
    content = compress(b'{"text": "a"}\n' * 1000)
    content = {"cut": content[:-9], "other": b'{"text": "a"}\n' * 9, "empty": b""}[damage]
    (tmp_path / f"bad.jsonl.{ending}").write_bytes(content)
    config = CorpusConfig(paths=f"{tmp_path}/*.{ending}", format="jsonl")
    words = rf"bad.jsonl.{ending} does not decompress: .* -t bad.jsonl" if damage != "empty" else "bad.jsonl"
    with pytest.raises(CorpusError, match=words):
        open_corpus(config, tmp_path / "index")
    assert damage == "empty" or not [*(tmp_path / "index").iterdir()]
