"""A corpus on S3 and in memory gives the rows that the same files give on a disk, whatever the network does."""

import bz2
import gzip
import itertools
import json
from pathlib import Path

import fsspec
import pyarrow as pa
import pytest
from helpers import sentences
from pyarrow import parquet
from remote.serving import FAULTS, Store

from kdcache.corpus import open_corpus
from kdcache.corpus.column import Column
from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import CorpusError

TEXTS = sentences(3000, seed=3)
LINES = [json.dumps({"text": text}).encode() + b"\n" for text in TEXTS]
COLUMNS = [Column("text", "text")]


def make(folder: Path) -> None:
    """The same rows in each format, the JSONL in two files and compressed too."""
    whole = b"".join(LINES)
    (folder / "jsonl").mkdir(parents=True)
    (folder / "jsonl" / "a.jsonl").write_bytes(b"".join(LINES[:1000]))
    (folder / "jsonl" / "b.jsonl").write_bytes(b"".join(LINES[1000:]))
    (folder / "packed.jsonl.gz").write_bytes(gzip.compress(whole))
    (folder / "packed.jsonl.bz2").write_bytes(bz2.compress(whole))
    (folder / "plain.txt").write_text("\n\n".join(TEXTS))
    table = pa.table({"text": TEXTS})
    parquet.write_table(table, folder / "rows.parquet", row_group_size=500)
    with pa.ipc.new_file(folder / "rows.arrow", table.schema) as file:
        file.write_table(table, max_chunksize=400)


KINDS = {
    "jsonl": ["jsonl", "jsonl/*.jsonl", "packed.jsonl.gz", "packed.jsonl.bz2"],
    "text": ["plain.txt"],
    "parquet": ["rows.parquet"],
    "arrow": ["rows.arrow"],
}
CASES = [(format, path) for format, paths in KINDS.items() for path in paths]


def rows(url: str, format: str, index: Path | None = None) -> tuple[list[str], dict[str, object]]:
    corpus = open_corpus(CorpusConfig(paths=url, format=format, unit_rows=700), COLUMNS, index)
    return [text for table in corpus.tables() for text in table["text"].to_pylist()], corpus.pin


def put(store: Store, folder: Path, where: str) -> str:
    make(folder)
    files = {path.relative_to(folder).as_posix(): path.read_bytes() for path in folder.rglob("*") if path.is_file()}
    for name, data in files.items():
        if where == "s3":
            store.put(f"corpus/{name}", data)
        else:
            fsspec.filesystem("memory").pipe_file(f"{folder}/{name}", data)
    return f"{store.url}/corpus" if where == "s3" else f"memory://{folder}"


@pytest.mark.parametrize("where", ["s3", "memory"])
def test_the_same_rows_as_on_a_disk(where: str, store: Store, tmp_path: Path) -> None:
    url = put(store, tmp_path / "corpus", where)
    for format, path in CASES:
        assert rows(f"{url}/{path}", format) == rows(f"{tmp_path}/corpus/{path}", format), path


@pytest.mark.parametrize("fault", FAULTS)
def test_every_fault_is_survived(fault: str, store: Store, tmp_path: Path) -> None:
    """Every fourth answer is a bad one, of bodies every eleventh once the file has been read."""
    url = put(store, tmp_path / "corpus", "s3")
    for format, path in [("jsonl", "jsonl"), ("jsonl", "packed.jsonl.gz"), ("parquet", "rows.parquet")]:
        expected = rows(f"{tmp_path}/corpus/{path}", format)
        config = CorpusConfig(paths=f"{url}/{path}", format=format, unit_rows=700)
        count = itertools.count(1)
        if fault != "flip":
            store.proxy.fault = lambda method, path, count=count: fault if next(count) % 4 == 0 else None
        corpus = open_corpus(config, COLUMNS)
        if fault == "flip":
            store.proxy.fault = lambda method, path, count=count: fault if next(count) % 3 == 0 else None
        got = [text for table in corpus.tables() for text in table["text"].to_pylist()]
        store.proxy.fault = None
        assert (got, corpus.pin) == expected, path


def test_what_is_read_is_what_was_indexed(store: Store, tmp_path: Path) -> None:
    """Wrong bytes are never rows: they are read again, and refused where they stay; a later process knows too."""
    url, index = put(store, tmp_path / "corpus", "s3"), tmp_path / "index"
    config = CorpusConfig(paths=f"{url}/jsonl", format="jsonl", unit_rows=700)
    open_corpus(config, COLUMNS, index)
    store.proxy.reset()
    corpus = open_corpus(config, COLUMNS, index)
    assert not [path for method, path in store.proxy.log if method == "GET" and ".jsonl" in path]
    store.proxy.fault = lambda method, path: "flip" if method == "GET" else None
    with pytest.raises(CorpusError, match=r"a\.jsonl changed while it was being used: bytes 0 to .* are others"):
        corpus.unit(0)


def test_what_is_not_there_is_said(store: Store) -> None:
    for path, words in {
        f"{store.url}/none.jsonl": "which does not exist",
        f"{store.url}/*.jsonl": "which matches no file",
        "s3://misspelt-bucket/a.jsonl": "there is no such bucket",
    }.items():
        with pytest.raises(CorpusError, match=words) as raised:
            rows(path, "jsonl")
        assert raised.value.exit_status == 2


def test_no_listing_loses_a_file_to_a_fault(store: Store, tmp_path: Path) -> None:
    """fsspec's glob takes a folder that it cannot list for an empty one."""
    url = put(store, tmp_path / "corpus", "s3")
    expected = rows(f"{tmp_path}/corpus/jsonl", "jsonl")
    for path in ("jsonl", "jsonl/*.jsonl", "*/?.jsonl", "**/?.jsonl"):
        count = itertools.count()
        store.proxy.fault = lambda method, url, count=count: "503" if "list-type" in url and next(count) < 3 else None
        assert rows(f"{url}/{path}", "jsonl") == expected, path


def test_a_server_that_stays_away_is_one_line(store: Store, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setenv("KDCACHE_RETRY_SECONDS", "1")
    store.put("a.jsonl", LINES[0])
    store.proxy.fault = lambda method, path: "503"
    with pytest.raises(CorpusError, match=r"cannot read corpus file s3://.*/a\.jsonl: .*; tried for 1 s"):
        rows(f"{store.url}/a.jsonl", "jsonl")
