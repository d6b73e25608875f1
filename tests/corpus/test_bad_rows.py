"""Bad rows left out: the others come as they are, and finding them costs passes, not a look at each row."""

import gzip
import json
from pathlib import Path

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import given
from hypothesis import strategies as st
from one_column import open_corpus

from kdcache.corpus import open_corpus as open_columns
from kdcache.corpus.files import CorpusFile
from kdcache.corpus.settings import CorpusConfig
from kdcache.corpus.split import sound_parts
from kdcache.errors import CorpusError, RowError
from kdcache.tasks import task_of


@given(count=st.integers(0, 300), bad=st.sets(st.integers(0, 299)))
def test_every_sound_row_comes_once_and_in_order(count: int, bad: set[int]) -> None:
    looked_at = 0

    def attempt(begin: int, stop: int) -> list[int]:
        nonlocal looked_at
        looked_at += stop - begin
        for row in range(begin, stop):
            if row in bad:
                raise RowError(str, row - begin, " is bad")
        return [*range(begin, stop)]

    found: dict[int, RowError] = {}
    parts = [*sound_parts(attempt, 0, count, found)]
    there = {row for row in bad if row < count}
    assert {*found} == there
    assert [row for _, rows in parts for row in rows] == [row for row in range(count) if row not in there]
    assert all([*numbers] == rows for numbers, rows in parts)
    assert looked_at <= count * (1 + min(len(there), (count - 1).bit_length()))


LINES = {
    "jsonl": ['{"text": "a"}', "{", '{"text": "b"}', '{"text": 5}', '{"txt": "c"}', '{"text": "d"}'],
    "csv": ["text,id", "a,1", "x", "b,2", "y,1,2", "z", "d,4"],
}


@pytest.mark.parametrize(("format", "rows"), [("jsonl", (0, 2, 5)), ("csv", (0, 2, 5))])
def test_bad_lines_are_left_out(tmp_path: Path, format: str, rows: tuple[int, ...]) -> None:
    (tmp_path / f"a.{format}").write_text("\n".join(LINES[format]) + "\n")
    corpus = open_corpus(CorpusConfig(paths=str(tmp_path), format=format, unit_rows=10))
    with pytest.raises(RowError, match=rf"^a\.{format}:{2 + (format == 'csv')} "):
        corpus.read(0)
    unit = corpus.read(0, skip=True)
    assert (unit.rows, unit.table["text"].to_pylist()) == (rows, ["a", "b", "d"])
    assert [*unit.bad] == [row for row in range(6) if row not in rows]
    assert str(unit.bad[3]).startswith(f"a.{format}:{4 + (format == 'csv')}")
    assert unit.sha256 == corpus.unit_sha256(0)


def test_rows_of_several_files_keep_their_numbers(tmp_path: Path) -> None:
    for name in "ab":
        (tmp_path / f"{name}.jsonl").write_text('{"text": "good"}\n{\n{"text": "good"}\n')
    corpus = open_corpus(CorpusConfig(paths=str(tmp_path), format="jsonl", unit_rows=6))
    unit = corpus.read(0, skip=True)
    assert unit.rows == (0, 2, 3, 5)
    assert [str(error).partition(" ")[0] for error in unit.bad.values()] == ["a.jsonl:2", "b.jsonl:2"]


def test_a_unit_of_bad_rows_alone_is_empty(tmp_path: Path) -> None:
    (tmp_path / "a.jsonl").write_text("{\n{\n")
    unit = open_corpus(CorpusConfig(paths=str(tmp_path), format="jsonl", unit_rows=2)).read(0, skip=True)
    assert (len(unit.table), unit.rows, [*unit.bad]) == (0, (), [0, 1])
    assert unit.table.column_names == ["text"]


def test_bad_sentences_and_bad_values_of_columns(tmp_path: Path) -> None:
    (tmp_path / "a.conll").write_text("a O\nb O\n\nc O\nd\n\ne O\n")
    config = CorpusConfig(paths=str(tmp_path / "a.conll"), format="conll", unit_rows=10)
    task = task_of({"name": "token_classification"})
    unit = open_columns(config, task.columns(config)).read(0, skip=True)
    assert unit.rows == (0, 2)
    assert str(unit.bad[1]).startswith("a.conll:5 has no tag where its sentence has others")
    pq.write_table(pa.table({"tokens": [["a"], None, ["b", None], ["c"]]}), tmp_path / "a.parquet")
    config = CorpusConfig(paths=str(tmp_path / "a.parquet"), format="parquet", tokens_field="tokens", unit_rows=10)
    unit = open_columns(config, task.columns(config)).read(0, skip=True)
    assert unit.rows == (0, 3)
    assert [error.why for error in unit.bad.values()] == [
        "tokens is null, expected a list of strings; leave such rows out",
        "tokens has null as item 2, expected strings",
    ]


def test_places_of_many_bad_rows_read_the_file_once(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    sentences = ["a O\nb\n\n"] * 50 + ["c O\n\n\n"] * 50
    (tmp_path / "a.conll").write_text("".join(sentences))
    config = CorpusConfig(paths=str(tmp_path), format="conll", unit_rows=100)
    corpus = open_columns(config, task_of({"name": "token_classification"}).columns(config))
    bad = corpus.read(0, skip=True).bad
    read = 0
    original = CorpusFile.read

    def counted(file: CorpusFile, start: int, stop: int) -> bytes:
        nonlocal read
        read += stop - start
        return original(file, start, stop)

    monkeypatch.setattr(CorpusFile, "read", counted)
    places = [str(error).split()[0] for error in bad.values()]
    assert places == [f"a.conll:{3 * row + 2}" for row in range(50)]
    assert read < 3 * sum(map(len, sentences))
    assert str(bad[3]).startswith("a.conll:11 has no tag")


def test_what_is_wrong_with_a_whole_file_is_no_bad_row(tmp_path: Path) -> None:
    pq.write_table(pa.table({"tokens": [1, 2]}), tmp_path / "a.parquet")
    config = CorpusConfig(paths=str(tmp_path), format="parquet", tokens_field="tokens")
    corpus = open_columns(config, task_of({"name": "token_classification"}).columns(config))
    with pytest.raises(CorpusError, match="tokens is int64, expected a list of strings") as caught:
        corpus.read(0, skip=True)
    assert not isinstance(caught.value, RowError)


def test_the_same_rows_in_other_files_have_the_same_unit_digests(tmp_path: Path) -> None:
    lines = [json.dumps({"text": f"row {row}"}) for row in range(8)]

    def digests(place: str, files: dict[str, list[str]]) -> list[str]:
        (tmp_path / place).mkdir()
        for name, rows in files.items():
            (tmp_path / place / f"{name}.jsonl").write_text("\n".join(rows))  # the last line has no line break
        corpus = open_corpus(CorpusConfig(paths=str(tmp_path / place), format="jsonl", unit_rows=4))
        return [corpus.unit_sha256(unit) for unit in range(corpus.num_units)]

    assert digests("one", {"a": lines}) == digests("two", {"x": lines[:3], "y": lines[3:]})
    parquet = [tmp_path / "a.parquet", tmp_path / "b.parquet"]
    for path, group in zip(parquet, (2, 5), strict=True):
        pq.write_table(pa.table({"text": lines, "id": range(8)}), path, row_group_size=group)
    whole, grouped = (
        open_corpus(CorpusConfig(paths=str(path), format="parquet", unit_rows=4)).unit_sha256(1) for path in parquet
    )
    assert whole == grouped


def test_a_column_of_another_name_is_another_unit(tmp_path: Path) -> None:
    digests = set()
    for number, header in enumerate(("text,title", "title,text")):
        path = tmp_path / f"{number}.csv"
        path.write_text(f"{header}\na,b\n")
        digests.add(open_corpus(CorpusConfig(paths=str(path), format="csv")).unit_sha256(0))
    assert len(digests) == 2


@pytest.mark.parametrize("name", ["a.jsonl", "a.jsonl.gz"])
def test_a_file_that_is_replaced_is_noticed(tmp_path: Path, name: str) -> None:
    opener = gzip.open if name.endswith(".gz") else open
    with opener(tmp_path / name, "wt") as file:
        file.write('{"text": "a"}\n')
    corpus = open_corpus(CorpusConfig(paths=str(tmp_path), format="jsonl"))
    corpus.check_unchanged()
    with opener(tmp_path / name, "wt") as file:
        file.write('{"text": "b"}\n')
    with pytest.raises(CorpusError, match=rf"{name} changed while it was being used"):
        corpus.check_unchanged()
