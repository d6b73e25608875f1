"""Bad corpora: one line that names the file, the row and what to do."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from one_column import open_corpus

from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import CorpusError

GOOD = b'{"text": "good"}\n'


def refused(path: Path, format: str, *words: str, **more: object) -> None:
    def read() -> None:
        corpus = open_corpus(CorpusConfig(paths=str(path), format=format, **more))
        for unit in range(corpus.num_units):
            corpus.unit(unit)

    with pytest.raises(CorpusError) as caught:
        read()
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


@pytest.mark.parametrize(
    ("line", "words"),
    [
        (b'{"text": "a"', ["bad.jsonl:3 is not JSON", "one JSON object per line"]),
        (b'{"text": "a"} {"text": "b"}', ["bad.jsonl:3 is not JSON", "Extra data"]),
        (b'["text"]', ["bad.jsonl:3 is an array, expected a JSON object"]),
        (b"null", ["bad.jsonl:3 is null"]),
        (b'{"txt": "a", "id": 1}', ["bad.jsonl:3 has no field text, it has txt, id", "text_field: txt?"]),
        (b"{}", ["bad.jsonl:3 has no field text, it has none", "set corpus.text_field"]),
        (b'{"text": 5}', ["bad.jsonl:3: text is a number, expected a string"]),
        (b'{"text": ["a"]}', ["bad.jsonl:3: text is an array"]),
        (b'{"text": "\xff"}', ["bad.jsonl:3 is not UTF-8", "byte 10"]),
        (b'{"text": "\\ud800"}', ["bad.jsonl:3: text holds half a surrogate pair"]),
        (b"   ", ["bad.jsonl:3 is not JSON"]),
    ],
)
def test_a_bad_line_of_jsonl(tmp_path, line, words):
    path = tmp_path / "bad.jsonl"
    path.write_bytes(GOOD + b"\n" + line + b"\n" + GOOD)
    refused(path, "jsonl", *words, unit_rows=10)


def test_nan_and_a_key_twice_are_read_as_python_reads_them(tmp_path):
    path = tmp_path / "a.jsonl"
    path.write_bytes(b'{"text": "a", "n": NaN, "text": "b"}\n{"text": "c"}\n')
    corpus = open_corpus(CorpusConfig(paths=str(path), format="jsonl", unit_rows=2))
    assert corpus.unit(0)["text"].to_pylist() == ["b", "c"]


@pytest.mark.parametrize("format", ["jsonl", "csv", "text"])
@pytest.mark.parametrize(
    ("content", "word", "advice"),
    [
        (gzip.compress(GOOD), "is gzip", "name it {}.gz, and it is decompressed"),
        ("text\na".encode("utf-16"), "is UTF-16", "convert it: iconv -f UTF-16 -t UTF-8 {}"),
        (b"PAR1....", "is Parquet", "set corpus.format: parquet"),
        (b"ARROW1\0\0", "is Arrow", "set corpus.format: arrow"),
        (b"PK\x03\x04....", "is zip", "unpack it: unzip {}"),
        (b"a.jsonl".ljust(257, b"\0") + b"ustar", "is a tar archive", "unpack it: tar -xf {}"),
    ],
)
def test_another_format_is_recognised(tmp_path, format, content, word, advice):
    path = tmp_path / f"bad.{format}"
    path.write_bytes(content)
    refused(path, format, f"bad.{format}", word, advice.format(path.name))


@pytest.mark.parametrize("name", ["a.jsonl", "a.NDJSON", "a.csv", "a.tsv.gz", "a.parquet", "a.conllu", "a.arrow"])
def test_data_is_no_plain_text_by_its_name(tmp_path, name):
    content = b"a,b\n"
    (tmp_path / name).write_bytes(gzip.compress(content) if name.endswith(".gz") else content)
    refused(Path(f"{tmp_path}/*"), "text", f"{name} is", "by its name, expected plain text; set corpus.format: ")


@pytest.mark.parametrize("format", ["text", "csv", "conll"])
def test_lines_of_json_are_jsonl_whatever_they_are_called(tmp_path, format):
    (tmp_path / "a.txt").write_bytes(GOOD + b"\n" + GOOD)
    refused(
        tmp_path / "a.txt", format, f"a.txt holds one JSON object per line, expected {format}; set corpus.format: jsonl"
    )


@pytest.mark.parametrize("content", [b'{\n "a": 1\n}\n', GOOD, b"{ or not\n{ or not\n", b"{}\n" + b"a" * 100_000])
def test_text_with_braces_is_text(tmp_path, content):
    (tmp_path / "a.json").write_bytes(content)
    corpus = open_corpus(CorpusConfig(paths=str(tmp_path / "a.json"), format="text"))
    assert corpus.unit(0)["text"].to_pylist() == [content.decode()]


def test_json_arrays_and_prose_are_not_jsonl(tmp_path):
    path = tmp_path / "bad.jsonl"
    path.write_text(json.dumps([{"text": "a"}], indent=1))
    refused(path, "jsonl", "bad.jsonl begins with a JSON array, expected JSONL")
    path.write_text("Call me Ishmael.")
    refused(path, "jsonl", "bad.jsonl begins with 'C', expected JSONL")


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"id,text\n1,a\n2,b,c\n3,d\n", ["bad.csv:3 has 3 values, expected 2 (id, text)"]),
        (b"id,text\n1,a\n2\n", ["bad.csv:3 has 1 values"]),
        (b'id,text\n1,"a\nb"\n2\n', ["bad.csv:4 has 1 values"]),
        (b"id,text\n1,a\n2,\xff\n", ["bad.csv:3 is not UTF-8"]),
        (b'id,text\n1,"a\n2,b\n', ["bad.csv:2 opens a quote that never closes"]),
        (b'id,text\n1,ok\n2,5" disk\n3,a\n4,3" disk\n', ["bad.csv:3: quotes do not pair up"]),
        (b"id,txt\n1,a\n", ["bad.csv has no field text, it has id, txt", "text_field: txt?"]),
        (b"\xff,text\n1,a\n", ["bad.csv:1 is not UTF-8"]),
        (b"id,text\n", ["no row in bad.csv"]),
        (b"", ["no row in bad.csv"]),
    ],
)
def test_bad_csv(tmp_path, content, words):
    path = tmp_path / "bad.csv"
    path.write_bytes(content)
    refused(path, "csv", *words, unit_rows=10)


def test_text_that_is_not_utf8(tmp_path):
    (tmp_path / "a.txt").write_text("fine")
    (tmp_path / "b.txt").write_bytes(b"caf\xe9 au lait")
    refused(tmp_path, "text", "b.txt:1 is not UTF-8", "byte 3")


@pytest.mark.parametrize("format", ["jsonl", "text"])
def test_a_corpus_without_rows(tmp_path, format):
    for name in ("a", "b"):
        (tmp_path / f"{name}.{format}").write_bytes(b"\n\n" if format == "jsonl" else b"")
    refused(tmp_path / f"a.{format}", format, f"no row in a.{format}")
    refused(Path(f"{tmp_path}/*"), format, "no row in 2 files such as")


@pytest.mark.parametrize(("format", "name"), [("parquet", "Parquet"), ("arrow", "Arrow")])
@pytest.mark.parametrize("content", [b"", b"text", b"x" * 1000, b"PAR1" * 9, b"ARROW1\0\0 and more of it"])
def test_files_that_are_not_columnar(tmp_path, format, name, content):
    path = tmp_path / f"bad.{format}"
    path.write_bytes(content)
    refused(path, format, f"bad.{format} is not {name}", "set corpus.format")


def test_a_truncated_arrow_stream(tmp_path):
    rows = pa.table({"text": ["a" * 100] * 100})
    with pa.ipc.new_stream(tmp_path / "a.arrow", rows.schema) as writer:
        writer.write_table(rows)
    (tmp_path / "a.arrow").write_bytes((tmp_path / "a.arrow").read_bytes()[:5000])
    refused(tmp_path / "a.arrow", "arrow", "a.arrow is not Arrow")


def test_a_parquet_file_with_spoiled_pages(tmp_path):
    path = tmp_path / "a.parquet"
    pq.write_table(pa.table({"text": [f"row {row}" for row in range(1000)]}), path, compression="zstd")
    content = bytearray(path.read_bytes())
    content[4:500] = b"\0" * 496
    path.write_bytes(content)
    refused(path, "parquet", "a.parquet is not Parquet")


@pytest.mark.parametrize("format", ["parquet", "arrow"])
def test_a_missing_column_is_found_at_opening(tmp_path, format):
    rows = pa.table({"content": ["a"], "id": [1]})
    path = tmp_path / f"a.{format}"
    if format == "parquet":
        pq.write_table(rows, path)
    else:
        with pa.ipc.new_file(path, rows.schema) as writer:
            writer.write_table(rows)
    refused(path, format, f"a.{format} has no field text, it has content, id", "; set corpus.text_field")
    refused(path, format, "has no field chat", "; set corpus.messages_field", messages_field="chat")


def test_a_field_that_plain_text_cannot_have(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    refused(tmp_path, "text", "a.txt has no field body, it has text", text_field="body")
    refused(tmp_path, "text", "a.txt has no field chat, it has text", messages_field="chat")


def test_a_column_of_two_types(tmp_path):
    pq.write_table(pa.table({"text": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": [1]}), tmp_path / "b.parquet")
    refused(tmp_path, "parquet", "text has different types in the files of unit 0", unit_rows=2)
