"""Whatever the format, the files, the unit size and the index's coarseness: the units joined are the corpus."""

import hashlib
import json
import uuid
from unittest import mock

import fsspec
import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, example, given, settings
from hypothesis import strategies as st
from one_column import open_corpus

from kdcache.corpus import Corpus, cutting
from kdcache.corpus import index as index_module
from kdcache.corpus import lines as lines_module
from kdcache.corpus.settings import CorpusConfig

SETTINGS = settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])

texts = st.lists(
    st.one_of(
        st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=12),
        st.sampled_from(
            ["", '"', 'a "quoted" word', "two\nlines", "\r\n\r\n", "a,b", "\n", "🌊 深い", "{}", "2020-01-01", "7"]
        ),
    ),
    max_size=9,
)


def read_all(corpus: Corpus) -> list[str]:
    return pa.concat_tables([corpus.unit(unit) for unit in range(corpus.num_units)]).column(0).to_pylist()


@SETTINGS
@given(
    files=st.lists(texts, min_size=1, max_size=3), unit_rows=st.integers(1, 7), chunk=st.integers(4, 40), data=st.data()
)
def test_units_joined_are_the_corpus(written, files, unit_rows, chunk, data):
    format, suffix, write = written
    if not any(files):
        files = [["only row"]]
    folder = f"/corpus-{uuid.uuid4().hex}"
    fs = fsspec.filesystem("memory")
    for number, rows in enumerate(files):
        content = write(rows)
        if format in ("jsonl", "csv") and data.draw(st.booleans()):
            content = content.rstrip(b"\r\n")
        fs.pipe_file(f"{folder}/{number}.{suffix}", content)
    config = CorpusConfig(paths=(f"memory:/{folder}",), format=format, unit_rows=unit_rows)
    try:
        with mock.patch.object(lines_module, "CHUNK", chunk), mock.patch.object(index_module, "MAX_MARKS", 2):
            corpus = open_corpus(config)
            expected = [text for rows in files for text in rows]
            assert corpus.num_rows == len(expected)
            assert corpus.num_units == -(-len(expected) // unit_rows)
            assert read_all(corpus) == expected
            assert len({len(corpus.unit(unit)) for unit in range(corpus.num_units - 1)}) <= 1
    finally:
        fs.rm(folder, recursive=True)


@pytest.mark.parametrize(
    ("stride_limit", "chunk"), [(2, 1 << 20), (1 << 20, 1 << 20), *((4, size) for size in range(4, 20))]
)
@pytest.mark.parametrize(
    ("format", "content", "rows", "places"),
    [
        (
            "jsonl",
            b'\n\n{"text": "a"}\n\r\n{"text": "b"}\r\n\n\n{"text": "c"}',
            ["a", "b", "c"],
            [3, 5, 8],
        ),
        ("jsonl", b'\xef\xbb\xbf{"text": "a"}\n{"text": "b"}\n', ["a", "b"], [1, 2]),
        ("csv", b'\xef\xbb\xbfid,text\n\n1,"a\n\nb"\r\n\r\n2,c""d\n3,"e"', ["a\n\nb", 'c""d', "e"], [3, 7, 8]),
        ("csv", b'text\n""\n" \n"\nx', ["", " \n", "x"], [2, 3, 5]),
        ("csv", b'"te""xt",text\na,b\n', ["b"], [2]),
    ],
)
def test_odd_but_valid_line_files(tmp_path, format, content, rows, places, stride_limit, chunk):
    name = f"odd.{format}"
    (tmp_path / name).write_bytes(content)
    with mock.patch.object(index_module, "MAX_MARKS", stride_limit), mock.patch.object(lines_module, "CHUNK", chunk):
        corpus = open_corpus(CorpusConfig(paths=str(tmp_path), format=format, unit_rows=1))
    assert read_all(corpus) == rows
    assert [corpus.where(unit, 0) for unit in range(len(rows))] == [f"{name}:{line}" for line in places]


@settings(SETTINGS, max_examples=100)
@given(
    files=st.lists(st.text(st.sampled_from("aé 深\n\n\n\r\t"), min_size=1, max_size=200), min_size=1, max_size=3),
    chunk=st.integers(1, 50),
    unit_rows=st.integers(1, 4),
)
@example(files=["a" * 16 + "\n\n\n\nb"], chunk=18, unit_rows=1)
def test_text_rows_joined_are_the_files(files, chunk, unit_rows):
    folder = f"/corpus-{uuid.uuid4().hex}"
    fs = fsspec.filesystem("memory")
    for number, text in enumerate(files):
        fs.pipe_file(f"{folder}/{number}.txt", text.encode())
    config = CorpusConfig(paths=(f"memory:/{folder}/*.txt",), format="text", unit_rows=unit_rows)
    sizes = {"TEXT_ROW": 16, "TEXT_ROW_LINE": 40, "TEXT_ROW_WORD": 90}
    try:
        with mock.patch.multiple(lines_module, CHUNK=chunk, **sizes), mock.patch.object(index_module, "MAX_MARKS", 2):
            rows = read_all(open_corpus(config))
        with mock.patch.multiple(lines_module, **sizes):
            assert rows == read_all(open_corpus(config)), "rows depend on how the file was read"
    finally:
        fs.rm(folder, recursive=True)
    assert "".join(rows) == "".join(files)
    for text in files:
        row, size = "", len(text.encode())
        while len(row.encode()) < size:
            piece = rows.pop(0)
            row += piece
            encoded = len(piece.encode())
            assert encoded >= sizes["TEXT_ROW"] or len(row.encode()) == size
            if encoded > sizes["TEXT_ROW_WORD"]:
                assert "\n" not in piece.encode()[40:90].decode(errors="ignore")
        assert row == text


def test_a_short_text_file_is_a_row_and_a_long_one_is_cut_between_paragraphs(tmp_path):
    (tmp_path / "a.txt").write_text("one\n\ntwo\n")
    paragraph = "word " * 200 + "\n\n"
    (tmp_path / "b.md").write_text(paragraph * 300)
    (tmp_path / "c.py").write_text("not text")
    corpus = open_corpus(CorpusConfig(paths=str(tmp_path), format="text", unit_rows=1))
    rows = read_all(corpus)
    assert rows[0] == "one\n\ntwo\n"
    assert "".join(rows[1:]) == paragraph * 300
    assert all(row.endswith("\n\n") and 64 << 10 <= len(row) < 66 << 10 for row in rows[1:-1])
    assert corpus.where(0, 0) == "a.txt:1"
    assert corpus.where(2, 0) == f"b.md:{rows[1].count(chr(10)) + 1}"


def test_a_text_file_without_blank_lines_or_line_ends_is_still_cut(tmp_path):
    (tmp_path / "lines.txt").write_text("a line\n" * 100_000)
    (tmp_path / "words.txt").write_text("word " * 500_000)
    corpus = open_corpus(CorpusConfig(paths=(str(tmp_path / "*.txt"),), format="text", unit_rows=1))
    rows = read_all(corpus)
    assert "".join(rows) == "a line\n" * 100_000 + "word " * 500_000
    assert {len(row) for row in rows[:2]} == {(256 << 10) - (256 << 10) % 7 + 7}
    assert max(map(len, rows)) == -(-((1 << 20) + 1) // 5) * 5


def test_a_unit_depends_on_its_own_bytes_only(tmp_path, written_briefly):
    format, suffix, write = written_briefly
    texts = [f"text of row {row:04}, unlike all others" for row in range(30)]
    path = tmp_path / f"a.{suffix}"
    whole = write(texts)
    path.write_bytes(whole)
    corpus = open_corpus(CorpusConfig(paths=str(path), format=format, unit_rows=3))
    for kept in (0, 4, 9):
        spoiled = whole
        for row, text in enumerate(texts):
            if row // 3 != kept:
                assert spoiled.count(text.encode()) >= 1
                spoiled = spoiled.replace(text.encode(), b"\xff" * len(text))
        path.write_bytes(spoiled)
        assert corpus.unit(kept)["text"].to_pylist() == texts[kept * 3 : kept * 3 + 3]


def test_random_access_reads_no_byte_outside_the_unit(tmp_path):
    path = tmp_path / "a.jsonl"
    lines = [b'{"text": "%d"}\n' % row for row in range(1000)]
    path.write_bytes(b"".join(lines))
    corpus = open_corpus(CorpusConfig(paths=str(path), format="jsonl", unit_rows=10))
    local = type(fsspec.filesystem("file"))
    with mock.patch.object(local, "cat_file", autospec=True, side_effect=local.cat_file) as read:
        corpus.unit(7)
    start = sum(map(len, lines[:70]))
    assert [(*call.kwargs.values(),) for call in read.call_args_list] == [(start, start + sum(map(len, lines[70:80])))]


def test_auto_unit_rows_follow_the_corpus(tmp_path):
    def units(rows: int, size: int) -> tuple[int, int]:
        path = tmp_path / "a.jsonl"
        path.write_bytes(b'{"text": "%s"}\n' % (b"x" * size) * rows)
        corpus = open_corpus(CorpusConfig(paths=str(path), format="jsonl"))
        return corpus.unit_rows, corpus.num_units

    assert units(5, 10) == (5, 1)
    assert units(6400, 10) == (6400, 1)
    assert units(3, 300_000) == (1, 3)
    assert units(10_000, 87) == (2622, 4), "256 KiB a unit"
    with mock.patch.object(cutting, "LEAST_UNIT_BYTES", 1000):
        assert units(5, 10) == (5, 1)
        assert units(6400, 87) == (100, 64)
    with mock.patch.multiple(cutting, LEAST_UNIT_BYTES=500, UNIT_BYTES=1000):
        assert units(6400, 87) == (10, 640)
        assert units(100, 5000) == (1, 100)


def test_parquet_units_count_the_wanted_column_only(tmp_path):
    rows = 6400
    wide = pa.table({"text": ["x" * 90] * rows, "embedding": pa.array([b"e" * 900] * rows)})
    pq.write_table(wide, tmp_path / "a.parquet", use_dictionary=False)
    with mock.patch.multiple(cutting, LEAST_UNIT_BYTES=500, UNIT_BYTES=1000):
        corpus = open_corpus(CorpusConfig(paths=str(tmp_path), format="parquet"))
    assert 9 <= corpus.unit_rows <= 11


def test_unit_digest_is_of_the_units_bytes(tmp_path):
    lines = [b'{"text": "%d"}\n' % row for row in range(10)]
    (tmp_path / "a.jsonl").write_bytes(b"".join(lines[:7]))
    (tmp_path / "b.jsonl").write_bytes(b"".join(lines[7:]))
    corpus = open_corpus(CorpusConfig(paths=str(tmp_path), format="jsonl", unit_rows=4))
    digests = [corpus.unit_sha256(unit) for unit in range(3)]
    assert digests == [hashlib.sha256(b"".join(lines[at : at + 4])).hexdigest() for at in (0, 4, 8)]


def test_unit_digests_of_columnar_files_differ_and_follow_the_content(tmp_path, written_in_columns):
    format, suffix, write = written_in_columns
    texts = [str(row) for row in range(9)]
    path = tmp_path / f"a.{suffix}"
    path.write_bytes(write(texts))
    config = CorpusConfig(paths=str(path), format=format, unit_rows=4)
    before = [open_corpus(config).unit_sha256(unit) for unit in range(3)]
    path.write_bytes(write([*texts[:-1], "x"]))
    after = [open_corpus(config).unit_sha256(unit) for unit in range(3)]
    assert before[:2] == after[:2]
    assert len({*before, *after}) == 4


def test_chats_of_every_shape_come_out_as_json_text_or_structs(tmp_path):
    chats = [
        [{"role": "user", "content": "2020-01-01"}, {"role": "assistant", "content": "a", "tool_calls": [{"x": 1}]}],
        [{"role": "user", "content": [{"type": "text", "text": "é"}]}],
    ]
    (tmp_path / "a.jsonl").write_text("".join(json.dumps({"messages": chat}) + "\n" for chat in chats))
    corpus = open_corpus(CorpusConfig(paths=str(tmp_path), format="jsonl", messages_field="messages"))
    assert [json.loads(text) for text in read_all(corpus)] == chats
    plain = [[{"role": "user", "content": f"chat {number}"}] for number in range(7)]
    pq.write_table(pa.table({"id": range(7), "messages": plain}), tmp_path / "a.parquet", row_group_size=2)
    config = CorpusConfig(paths=str(tmp_path), format="parquet", messages_field="messages", unit_rows=3)
    assert read_all(open_corpus(config)) == plain
