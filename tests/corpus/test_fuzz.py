"""Spoiled corpus files: rows as a plain reader reads them, or one CorpusError, within seconds; never a dead process."""

import bz2
import collections
import gzip
import io
import json
import lzma
import os
import random
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from mutations import TooSlow, spoiled_bytes, time_limit

from kdcache.corpus.column import Column
from kdcache.corpus.corpus import open_corpus
from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import ConfigError, CorpusError, KdcacheError

CRASHES = Path(__file__).parent / "crashes"
TEXT = Column("text", "text_field")
KINDS = [
    [TEXT],
    [TEXT, Column("id", "label_field", False, "label")],
    [TEXT, Column("n", "tags_field", False, "labels")],
    [TEXT, Column("f", "label_field", False, "numbers")],
]
ROWS = [
    {"id": i, "text": f"row {i} é\n" * (i % 4), "n": ["a", "b"][: i % 3], "f": i / 4, "s": {"a": i}} for i in range(12)
]


def columnar(**settings: Any) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(ROWS), out, **settings)
    return out.getvalue()


def arrow(kind: Any, **settings: Any) -> bytes:
    out = io.BytesIO()
    table = pa.Table.from_pylist(ROWS)
    with kind(out, table.schema, **settings) as writer:
        writer.write_table(table, max_chunksize=5)
    return out.getvalue()


def lines() -> bytes:
    return "".join(json.dumps(row, ensure_ascii=row["id"] % 2 == 0) + "\n" for row in ROWS).encode()


def table(sign: str) -> bytes:
    head = sign.join(("id", "text", "n", "f"))
    rows = (sign.join((str(r["id"]), f'"{r["text"]}"', '"[""a""]"', str(r["f"]))) for r in ROWS)
    return "\n".join((head, *rows)).encode()


CONLL = "-DOCSTART- O\n\n" + "".join(f"word{i}\tB-X\nof\tO\n{'' if i % 2 else chr(10)}" for i in range(9))
PLAIN = "Some text.\n\nAnd é more.\n" * 30
ZSTD = pa.compress(lines(), codec="zstd", asbytes=True)
FILES: dict[str, tuple[str, bytes]] = {
    "a.jsonl": ("jsonl", lines()),
    "a.csv": ("csv", table(",")),
    "a.tsv": ("csv", table("\t")),
    "a.conll": ("conll", CONLL.encode()),
    "a.txt": ("text", PLAIN.encode()),
    "a.parquet": ("parquet", columnar(row_group_size=5, compression="none", use_dictionary=False)),
    "b.parquet": ("parquet", columnar(row_group_size=7, compression="zstd", write_page_index=True)),
    "c.parquet": ("parquet", columnar(data_page_version="2.0", write_page_checksum=True)),
    "a.arrow": ("arrow", arrow(pa.ipc.new_file)),
    "a.arrows": ("arrow", arrow(pa.ipc.new_stream)),
    "a.feather": ("arrow", arrow(pa.ipc.new_file, options=pa.ipc.IpcWriteOptions(compression="zstd"))),
    "a.jsonl.gz": ("jsonl", gzip.compress(lines())),
    "a.jsonl.bz2": ("jsonl", bz2.compress(lines())),
    "a.jsonl.xz": ("jsonl", lzma.compress(lines())),
    "a.jsonl.zst": ("jsonl", ZSTD),
}


def columns_of(format: str, rng: random.Random) -> list[Column]:
    if format == "conll":
        return [Column("tokens", "tokens_field", True, "words"), Column("tags", "tags_field", False, "labels")]
    return [TEXT] if format == "text" else rng.choice(KINDS)


def read(path: Path, format: str, columns: list[Column]) -> list[dict[str, Any]] | None:
    """The rows, None where they are refused in one line. Anything else is raised."""
    try:
        corpus = open_corpus(CorpusConfig(paths=str(path), format=format, unit_rows=4), columns)
        return [row for part in corpus.tables() for row in part.to_pylist()]
    except (CorpusError, ConfigError) as error:
        return None if str(error) and "\n" not in str(error) else [{"text": f"no line: {error}"}]


def plainly(path: Path, format: str) -> list[Any] | None:
    """What pyarrow or json reads of the column of texts, None where they do not."""
    try:
        if format == "jsonl":
            opened = {".gz": gzip.open, ".bz2": bz2.open, ".xz": lzma.open}.get(path.suffix, open)
            if path.suffix == ".zst":
                data = pa.CompressedInputStream(pa.OSFile(str(path)), "zstd").read()
            else:
                with opened(path, "rb") as file:
                    data = file.read()
            kept = [line for line in data.removeprefix(b"\xef\xbb\xbf").split(b"\n") if line.strip(b"\r")]
            return [json.loads(line)["text"] for line in kept]
        if format == "parquet":
            return pq.read_table(path, columns=["text"], use_threads=False)["text"].to_pylist()
        if format == "arrow":
            data = path.read_bytes().removeprefix(b"ARROW1\0\0")
            return pa.ipc.open_stream(data).read_all()["text"].to_pylist()
        if format == "text":
            return [path.read_bytes().removeprefix(b"\xef\xbb\xbf").decode()]
    except Exception:
        return None
    return None


def campaign(name: str, folder: Path, count: int, seed: int) -> collections.Counter[str]:
    """What becomes of so many spoiled copies of a file."""
    format, sound = FILES[name]
    found: collections.Counter[str] = collections.Counter()
    for number in range(count):
        rng = random.Random(f"{name} {seed} {number}")
        data = spoiled_bytes(sound, rng)
        if format == "parquet" and rng.random() < 0.7:  # a footer whose length is right, so that it is looked into
            length = int.from_bytes(sound[-8:-4], "little")
            footer = spoiled_bytes(sound[-8 - length : -8], rng)
            data = sound[: -8 - length] + footer + len(footer).to_bytes(4, "little") + b"PAR1"
        path = folder / name
        path.write_bytes(data)
        try:
            with time_limit():
                rows = read(path, format, columns_of(format, rng))
            found["refused" if rows is None else "read"] += 1
            if rows is not None and (expected := plainly(path, format)) is not None:
                texts = [row["text"] for row in rows]
                assert (["".join(texts)] if format == "text" else texts) == expected, (name, seed, number)
        except TooSlow:
            found["hang"] += 1
        except AssertionError:
            found["wrong"] += 1
        except Exception as error:
            found[f"traceback {type(error).__name__}: {error}"[:200]] += 1
    return found


@pytest.mark.parametrize("name", FILES)
def test_sound_files_are_read(tmp_path: Path, name: str) -> None:
    format, data = FILES[name]
    (tmp_path / name).write_bytes(data)
    rows = read(tmp_path / name, format, columns_of(format, random.Random(0)))
    assert rows
    expected = plainly(tmp_path / name, format)
    assert expected is None or "".join(row["text"] for row in rows) == "".join(expected)


@pytest.mark.parametrize("name", FILES)
def test_spoiled_files_are_read_right_or_refused(tmp_path: Path, name: str) -> None:
    found = campaign(name, tmp_path, 40, seed=0)
    assert found.keys() <= {"read", "refused"}, found


@pytest.mark.long
@pytest.mark.parametrize("name", FILES)
def test_many_spoiled_files(tmp_path: Path, name: str) -> None:
    """In processes of their own, so that one that dies of a file is counted. KDCACHE_FUZZ: how many thousands."""
    thousands, total = int(os.environ.get("KDCACHE_FUZZ", "2")), collections.Counter[str]()
    for seed in range(1, 10 * thousands + 1):
        reader, writer = os.pipe()
        pid = os.fork()
        if pid == 0:
            status = 1
            try:
                os.write(writer, json.dumps(campaign(name, tmp_path, 100, seed)).encode())
                status = 0
            finally:
                os._exit(status)
        os.close(writer)
        _, status = os.waitpid(pid, 0)
        with os.fdopen(reader, "rb") as pipe:
            answer = pipe.read()
        total += collections.Counter(json.loads(answer)) if answer else collections.Counter({f"died {status}": 1})
    print(f"{name}: {dict(total)}", file=sys.__stderr__)
    assert total.keys() <= {"read", "refused"}, total


@pytest.mark.parametrize("path", sorted(CRASHES.iterdir()), ids=lambda path: path.name)
def test_files_that_end_pyarrow_are_refused(path: Path) -> None:
    """Read in this process with pyarrow 26.0.1, they end it: terminate called after throwing a ParquetException."""
    with pytest.raises(CorpusError, match="ends the process that tries"):
        open_corpus(CorpusConfig(paths=str(path), format="parquet"), [TEXT])
    other = FILES["a.parquet"][1]
    sound = Path(os.environ.get("TMPDIR", "/tmp")) / f"kdcache-sound-{os.getpid()}.parquet"
    try:
        sound.write_bytes(other)
        assert open_corpus(CorpusConfig(paths=str(sound), format="parquet"), [TEXT]).num_rows == len(ROWS)
    finally:
        sound.unlink(missing_ok=True)


def test_files_that_would_not_end(tmp_path: Path) -> None:
    for number, format in enumerate(("jsonl", "csv", "text", "parquet", "arrow", "conll")):
        folder = tmp_path / str(number)
        folder.mkdir()
        suffix = {"text": "txt"}.get(format, format)
        pipe, device = folder / f"pipe.{suffix}", folder / f"device.{suffix}"
        os.mkfifo(pipe)
        device.symlink_to("/dev/zero")
        for path in (pipe, device, folder, folder / "*"):
            with time_limit(), pytest.raises(KdcacheError):
                open_corpus(CorpusConfig(paths=str(path), format=format), [TEXT])


@pytest.mark.parametrize(("suffix", "compress"), [("bz2", bz2.compress), ("xz", lzma.compress)])
def test_a_bomb_is_not_unpacked(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, suffix: str, compress: Any) -> None:
    monkeypatch.setattr("kdcache.corpus.compressed.LEAST_SUSPECT", 4 << 20)
    path = tmp_path / f"a.jsonl.{suffix}"
    path.write_bytes(compress(b"\n" * (9 << 20)))
    with pytest.raises(CorpusError, match=r"decompresses to more than 4,194,304"):
        open_corpus(CorpusConfig(paths=str(path), format="jsonl"), [TEXT])


@pytest.mark.parametrize("format", ["jsonl", "csv", "text", "conll"])
def test_a_row_that_fills_the_memory_is_refused(tmp_path: Path, monkeypatch: pytest.MonkeyPatch, format: str) -> None:
    """At 8 MiB here instead of 256."""
    monkeypatch.setattr("kdcache.corpus.lines.LONGEST_ROW", 8 << 20)
    monkeypatch.setattr("kdcache.corpus.conll.LONGEST_ROW", 8 << 20)
    path = tmp_path / f"a.{format}"
    with path.open("wb") as file:
        file.write(b'{"text": "a"}\n{"text": "' if format == "jsonl" else b"text\na\n")
        file.truncate(12 << 20)
    with time_limit(120), pytest.raises(CorpusError, match="has a row of more than 8 MiB, from byte "):
        open_corpus(CorpusConfig(paths=str(path), format=format), [TEXT])
