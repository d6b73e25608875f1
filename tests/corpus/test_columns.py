"""Several columns of a row, in every format that has them: text, pairs, labels, lists of words, chats."""

import csv
import io
import json
import re
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import pyarrow as pa
import pyarrow.parquet as pq
import pytest
from hypothesis import HealthCheck, given, settings
from hypothesis import strategies as st

from kdcache.corpus import Column, Corpus, open_corpus
from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import ConfigError, CorpusError, RowError

TEXT = Column("text", "text_field")
PAIR = Column("other", "text_pair_field")
LABEL = Column("label", "label_field", required=False, kind="label")
TOKENS = Column("tokens", "tokens_field", kind="words")
TAGS = Column("tags", "tags_field", required=False, kind="words")
NUMBERED = Column("tags", "tags_field", required=False, kind="labels")
ALL = (TEXT, PAIR, LABEL, TOKENS, TAGS)

Rows = Sequence[dict[str, Any]]


def jsonl(rows: Rows) -> bytes:
    return "".join(json.dumps(row) + "\n" for row in rows).encode()


def csv_file(rows: Rows) -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator="\n", quoting=csv.QUOTE_ALL)
    writer.writerow(rows[0])
    for row in rows:
        cells = (row[name] for name in rows[0])
        writer.writerow(json.dumps(cell) if isinstance(cell, list) else cell for cell in cells)
    return out.getvalue().encode()


def parquet(rows: Rows) -> bytes:
    out = io.BytesIO()
    pq.write_table(pa.Table.from_pylist(list(rows)), out, row_group_size=2)
    return out.getvalue()


def arrow(rows: Rows) -> bytes:
    out = io.BytesIO()
    table = pa.Table.from_pylist(list(rows))
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return out.getvalue()


def arrow_dictionary(rows: Rows) -> bytes:
    table = pa.Table.from_pylist(list(rows))
    for name in ("text", "label"):
        if name in table.column_names:
            table = table.set_column(table.column_names.index(name), name, table[name].dictionary_encode())
    out = io.BytesIO()
    with pa.ipc.new_stream(out, table.schema) as writer:
        writer.write_table(table, max_chunksize=2)
    return out.getvalue()


WRITERS: dict[str, tuple[str, Callable[[Rows], bytes]]] = {
    "jsonl": ("jsonl", jsonl),
    "csv": ("csv", csv_file),
    "parquet": ("parquet", parquet),
    "arrow": ("arrow", arrow),
    "arrow-dictionary": ("arrow", arrow_dictionary),
}
Kind = tuple[str, Callable[[Rows], bytes]]


@pytest.fixture(params=WRITERS)
def kind(request: pytest.FixtureRequest) -> Kind:
    return WRITERS[request.param]


@pytest.fixture(params=["jsonl", "parquet", "arrow", "arrow-dictionary"])
def typed(request: pytest.FixtureRequest) -> Kind:
    return WRITERS[request.param]


@pytest.fixture(params=["csv", "parquet", "arrow"])
def headed(request: pytest.FixtureRequest) -> Kind:
    """Formats whose files name their columns."""
    return WRITERS[request.param]


def opened(folder: Path, format: str, columns: Sequence[Column], unit_rows: int = 100) -> Corpus:
    return open_corpus(CorpusConfig(paths=str(folder), format=format, unit_rows=unit_rows), columns)


def read_all(corpus: Corpus) -> list[dict[str, Any]]:
    return pa.concat_tables([corpus.unit(unit) for unit in range(corpus.num_units)]).to_pylist()


def refused(folder: Path, format: str, columns: Sequence[Column], *words: str) -> None:
    with pytest.raises(CorpusError) as caught:
        read_all(opened(folder, format, columns))
    message = str(caught.value)
    assert "\n" not in message
    for word in words:
        assert word in message


strings = st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0"), max_size=6)
rows = st.fixed_dictionaries(
    {
        "extra": st.just("x"),
        "tokens": st.lists(strings, max_size=3),
        "label": st.one_of(st.none(), strings.filter(bool)),
        "text": strings,
        "tags": st.one_of(st.none(), st.lists(strings, max_size=3)),
        "other": strings,
    }
)


@settings(max_examples=30, deadline=None, suppress_health_check=[HealthCheck.function_scoped_fixture])
@given(
    files=st.lists(st.lists(rows, min_size=1, max_size=4), min_size=1, max_size=2),
    columns=st.permutations(ALL),
    unit_rows=st.integers(1, 5),
)
def test_units_joined_are_the_columns_that_were_asked_for(tmp_path, kind, files, columns, unit_rows):
    format, write = kind
    for path in tmp_path.iterdir():
        path.unlink()
    for number, content in enumerate(files):
        (tmp_path / f"{number}.{format}").write_bytes(write(content))
    corpus = opened(tmp_path, format, columns, unit_rows)
    expected = [{column.name: row[column.name] for column in columns} for content in files for row in content]
    assert read_all(corpus) == expected
    assert corpus.unit(0).column_names == [column.name for column in columns]
    types = {field.name: field.type for field in corpus.unit(0).schema}
    assert (types["label"], types["tokens"], types["tags"]) == (pa.string(), *[pa.list_(pa.string())] * 2)


@pytest.mark.parametrize(
    ("labels", "expected"),
    [
        ([3, -1, 0, None], ["3", "-1", "0", None]),
        ([0.0, 1.0, -2.0, None], ["0", "1", "-2", None]),
        ([True, False, None], ["true", "false", None]),
        (["pos", "", "01", "True"], ["pos", None, "01", "True"]),
        ([None, None], [None, None]),
    ],
)
def test_labels_are_strings(tmp_path, typed, labels, expected):
    format, write = typed
    (tmp_path / f"a.{format}").write_bytes(write([{"text": "a", "label": label} for label in labels]))
    corpus = opened(tmp_path, format, (TEXT, LABEL))
    assert corpus.unit(0)["label"].to_pylist() == expected
    assert corpus.unit(0)["label"].type == pa.string()


def test_labels_of_csv_are_what_the_file_says(tmp_path):
    (tmp_path / "a.csv").write_text('text,label\na,1\nb,True\nc,\nd,""\ne,NA\n')
    corpus = opened(tmp_path, "csv", (TEXT, LABEL))
    assert corpus.unit(0)["label"].to_pylist() == ["1", "True", None, None, "NA"]


def test_a_json_row_may_lack_what_is_optional(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "a", "label": 1}, {"text": "b"}, {"text": "c", "label": None}]))
    assert opened(tmp_path, "jsonl", (TEXT, LABEL)).unit(0)["label"].to_pylist() == ["1", None, None]


def test_a_file_may_lack_what_is_optional(tmp_path, kind):
    format, write = kind
    (tmp_path / f"a.{format}").write_bytes(write([{"text": "a", "label": "x", "tags": ["O"]}]))
    (tmp_path / f"b.{format}").write_bytes(write([{"text": "b"}]))
    for unit_rows in (1, 2):
        assert read_all(opened(tmp_path, format, (TEXT, LABEL, TAGS), unit_rows)) == [
            {"text": "a", "label": "x", "tags": ["O"]},
            {"text": "b", "label": None, "tags": None},
        ]


def test_what_no_file_has_is_refused_though_optional(tmp_path, headed):
    format, write = headed
    for name in "ab":
        (tmp_path / f"{name}.{format}").write_bytes(write([{"text": "a", "lable": "x"}]))
    hint = "did you mean corpus.label_field: lable? Without one, leave corpus.label_field out"
    refused(tmp_path, format, (TEXT, LABEL), f"a.{format} has no field label, it has text, lable", hint)


def test_what_is_required_names_its_setting(tmp_path, kind):
    format, write = kind
    (tmp_path / f"a.{format}").write_bytes(write([{"text": "a", "other": "b"}]))
    (tmp_path / f"b.{format}").write_bytes(write([{"text": "a", "othr": "b"}]))
    place = f"b.{format}:1" if format == "jsonl" else f"b.{format}"
    hint = "did you mean corpus.text_pair_field: othr?"
    refused(tmp_path, format, (TEXT, PAIR), f"{place} has no field other, it has text, othr; {hint}")


def test_required_labels_and_words_are_never_null(tmp_path, kind):
    format, write = kind
    rows = [{"text": "a", "label": "x", "tokens": ["a"]}, {"text": "b", "label": None, "tokens": None}]
    (tmp_path / f"a.{format}").write_bytes(write(rows))
    place = {"jsonl": "a.jsonl:2", "csv": "a.csv:3"}.get(format, f"a.{format} row 2")
    label = Column("label", "label_field", kind="label")
    refused(
        tmp_path, format, (TEXT, label), f"{place}: label is null, expected a string, an integer or a boolean; leave"
    )
    refused(tmp_path, format, (TEXT, TOKENS), f"{place}: tokens is null, expected a list of strings; leave such rows")


@pytest.mark.parametrize(
    ("column", "value", "got"),
    [
        (LABEL, 0.5, "label is the number 0.5; real-valued scores are of a regression"),
        (LABEL, ["a"], "label is an array; several labels for a text: expected one label, or set task.name"),
        (LABEL, {"a": 1}, "label is an object"),
        (LABEL, "\ud800", "label holds half a surrogate pair"),
        (TOKENS, 5, "tokens is a number, expected a list of strings"),
        (TOKENS, {"a": 1}, "tokens is an object"),
        (TOKENS, "not json", "tokens is text that is not JSON, expected a list of strings"),
        (TOKENS, '"a"', "tokens is a string, expected a list of strings"),
        (TOKENS, ["a", None], "tokens has null as item 2, expected strings"),
        (TAGS, ["O", 3], "tags has a number as item 2, expected strings"),
        (NUMBERED, [1, 0.5], "tags is the number 0.5; real-valued scores are of a regression"),
        (NUMBERED, [1, None], "tags has null as item 2, expected strings or integers"),
        (NUMBERED, [1, ["a"]], "tags has an array as item 2, expected strings or integers"),
        (TAGS, ["\ud800"], "tags holds half a surrogate pair"),
    ],
)
def test_bad_values_of_json(tmp_path, column, value, got):
    good = {"text": "a", "label": 1, "tokens": ["a"], "tags": ["O"]}
    (tmp_path / "bad.jsonl").write_bytes(jsonl([good, good | {column.name: value}]))
    refused(tmp_path, "jsonl", (TEXT, column), f"bad.jsonl:2: {got}")


@pytest.mark.parametrize(
    ("cell", "got"),
    [
        ("['a']", "tokens is text that is not JSON"),
        ("[1]", "tokens has a number as item 1"),
        ("{}", "tokens is an object"),
        ('["\\ud800"]', "tokens holds half a surrogate pair"),
    ],
)
def test_bad_lists_in_text_cells(tmp_path, headed, cell, got):
    format, write = headed
    (tmp_path / f"bad.{format}").write_bytes(write([{"tokens": '["a"]'}, {"tokens": cell}]))
    place = "bad.csv:3" if format == "csv" else f"bad.{format} row 2"
    refused(tmp_path, format, (TOKENS,), f"{place}: {got}")


@pytest.mark.parametrize(
    ("column", "values", "got"),
    [
        (LABEL, pa.array([1.0, 2.5]), "row 2: label is the number 2.5; real-valued scores are of a regression"),
        (
            LABEL,
            pa.array([["a"], ["b"]]),
            "row 1: label is list<element: string>; several labels for a text: expected one label",
        ),
        (LABEL, pa.array([[1], [2]]), "row 1: label is list<element: int64>; several labels"),
        (LABEL, pa.array([b"a", b"b"]), "row 1: label is binary, expected a string, an integer or a boolean"),
        (TOKENS, pa.array([1, 2]), "row 1: tokens is int64, expected a list of strings"),
        (TOKENS, pa.array([[1], [2]]), "row 1: tokens is list<element: int64>"),
        (TOKENS, pa.array([["a"], ["b", None]]), "row 2: tokens has null as item 2, expected strings"),
    ],
)
def test_bad_types_of_parquet(tmp_path, column, values, got):
    pq.write_table(pa.table({column.name: values}), tmp_path / "bad.parquet")
    refused(tmp_path, "parquet", (column,), f"bad.parquet {got}")


@pytest.mark.parametrize(
    "type",
    [
        pa.large_list(pa.large_string()),
        pa.list_(pa.string(), 2),
        pa.list_(pa.string_view()),
        pa.list_(pa.dictionary(pa.int8(), pa.string())),
    ],
)
def test_lists_of_every_arrow_type(tmp_path, type):
    rows = pa.table({"tokens": pa.array([["a", "b"], None, ["c", "d"]]).cast(type)})
    with pa.ipc.new_stream(tmp_path / "a.arrow", rows.schema) as writer:
        writer.write_table(rows, max_chunksize=2)
    column = Column("tokens", "tokens_field", required=False, kind="words")
    corpus = opened(tmp_path, "arrow", (column,), 2)
    assert [row["tokens"] for row in read_all(corpus)] == [["a", "b"], None, ["c", "d"]]
    assert corpus.unit(0).schema.types == [pa.list_(pa.string())]


def test_labels_of_two_types_go_together_and_texts_do_not(tmp_path):
    pq.write_table(pa.table({"text": ["a"], "label": [1], "other": ["a"]}), tmp_path / "a.parquet")
    pq.write_table(pa.table({"text": ["b"], "label": ["x"], "other": [2]}), tmp_path / "b.parquet")
    assert opened(tmp_path, "parquet", (TEXT, LABEL)).unit(0)["label"].to_pylist() == ["1", "x"]
    refused(tmp_path, "parquet", (TEXT, PAIR), "other has different types in the files of unit 0")


def test_a_chat_beside_a_label(tmp_path):
    chat = [{"role": "user", "content": "é"}]
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"messages": chat, "label": True}]))
    (row,) = read_all(opened(tmp_path, "jsonl", (Column("messages", "messages_field", kind="json"), LABEL)))
    assert (json.loads(row["messages"]), row["label"]) == (chat, "true")


def test_plain_text_has_no_label(tmp_path):
    (tmp_path / "a.txt").write_text("a")
    refused(tmp_path, "text", (TEXT, LABEL), "a.txt has no field label, it has text", "leave corpus.label_field out")


def test_one_column_under_two_settings(tmp_path):
    (tmp_path / "a.jsonl").write_bytes(jsonl([{"text": "a"}]))
    with pytest.raises(ConfigError, match=r"got text for both corpus\.text_field and corpus\.text_pair_field"):
        opened(tmp_path, "jsonl", (TEXT, Column("text", "text_pair_field")))


def test_only_the_wanted_columns_of_parquet_are_read(tmp_path):
    rows = pa.table({"text": ["a"] * 10, "label": [1] * 10, "zz": ["unwanted"] * 10})
    pq.write_table(rows, tmp_path / "a.parquet", compression="none", use_dictionary=False)
    content = (tmp_path / "a.parquet").read_bytes()
    corpus = opened(tmp_path, "parquet", (TEXT, LABEL))
    column = pq.read_metadata(tmp_path / "a.parquet").row_group(0).column(2)
    start, size = column.data_page_offset, column.total_compressed_size
    (tmp_path / "a.parquet").write_bytes(content[:start] + b"\xff" * size + content[start + size :])
    assert corpus.unit(0).to_pydict() == {"text": ["a"] * 10, "label": ["1"] * 10}


@pytest.mark.parametrize(
    ("name", "content", "more"),
    [
        ("a.tsv", 'text\tlabel\n"a\tb"\tx\n', {}),
        ("a.csv", 'text\tlabel\n"a\tb"\tx\n', {"delimiter": "tab"}),
        ("a.csv", 'label;text\nx;"a\tb"\n', {"delimiter": ";"}),
        ("a.tsv", "x|a\tb\n", {"delimiter": "|", "columns": ["label", "text"]}),
        ("a.csv", "\ufeff\nx,a\tb\n", {"columns": ["label", "text"]}),
    ],
)
def test_tables_parted_by_other_signs(tmp_path: Path, name: str, content: str, more: dict[str, Any]) -> None:
    (tmp_path / name).write_text(content, encoding="utf-8")
    config = CorpusConfig(paths=str(tmp_path), format="csv", **more)
    corpus = open_corpus(config, (TEXT, LABEL))
    assert read_all(corpus) == [{"text": "a\tb", "label": "x"}]
    assert corpus.where(0, 0) == f"{name}:{len(content.splitlines())}"


def test_quotes_that_are_characters(tmp_path: Path) -> None:
    (tmp_path / "a.tsv").write_text('text\tlabel\n5" disk\tx\nb\ty\n')
    with pytest.raises(CorpusError, match=r"a.tsv:2 opens a quote that never closes.* set corpus.quotes: false"):
        open_corpus(CorpusConfig(paths=str(tmp_path), format="csv"), (TEXT, LABEL))
    corpus = open_corpus(CorpusConfig(paths=str(tmp_path), format="csv", quotes=False), (TEXT, LABEL))
    assert read_all(corpus) == [{"text": '5" disk', "label": "x"}, {"text": "b", "label": "y"}]


@pytest.mark.parametrize(("sign", "setting"), [("\t", "tab"), (";", "semicolon"), ("|", "'|'")])
def test_a_header_of_one_column_names_the_delimiter(tmp_path: Path, sign: str, setting: str) -> None:
    (tmp_path / "a.csv").write_text(f"text{sign}label\na, b{sign}x\n")
    with pytest.raises(CorpusError, match=rf"a.csv:1 has one column.*set corpus.delimiter: {re.escape(setting)}$"):
        open_corpus(CorpusConfig(paths=str(tmp_path), format="csv"), (TEXT, LABEL))


NER = ["O", "B-PER", "I-PER"]


def hugging_face(rows: Rows) -> pa.Table:
    """As datasets writes it: the features beside the columns."""
    feature = {"names": NER, "_type": "ClassLabel"}
    features = {
        "text": {"dtype": "string", "_type": "Value"},
        "label": feature,
        "tags": {"feature": feature, "_type": "List"},
        "old": {"feature": feature, "length": -1, "_type": "Sequence"},
        "older": [feature],
    }
    table = pa.Table.from_pylist(list(rows))
    return table.replace_schema_metadata({"huggingface": json.dumps({"info": {"features": features}})})


@pytest.mark.parametrize("format", ["parquet", "arrow"])
@pytest.mark.parametrize("name", ["tags", "old", "older"])
def test_integers_have_the_names_of_the_files_schema(tmp_path: Path, format: str, name: str) -> None:
    table = hugging_face([{"text": "a", "label": 2, name: [0, 1, 2]}, {"text": "b", "label": -1, name: None}])
    if format == "parquet":
        pq.write_table(table, tmp_path / "a.parquet")
    else:
        with pa.ipc.new_stream(tmp_path / "a.arrow", table.schema) as writer:
            writer.write_table(table)
    tags = Column(name, "tags_field", required=False, kind="labels")
    expected = [{"label": "I-PER", name: NER}, {"label": None, name: None}]
    for _ in range(2):
        config = CorpusConfig(paths=str(tmp_path), format=format)
        assert read_all(open_corpus(config, (LABEL, tags), tmp_path / "index")) == expected
    assert read_all(open_corpus(CorpusConfig(paths=str(tmp_path), format=format, label_names=NER), (LABEL, tags)))
    with pytest.raises(ConfigError, match=r"which itself names the classes of label: O, B-PER, I-PER; leave"):
        open_corpus(CorpusConfig(paths=str(tmp_path), format=format, label_names=["a", "b", "c"]), (LABEL, tags))


def test_integers_have_the_names_of_the_settings(tmp_path: Path, kind: Kind) -> None:
    format, write = kind
    rows = [{"text": "a", "label": 1, "tags": [0, 2]}, {"text": "b", "label": -1, "tags": []}]
    (tmp_path / f"a.{format}").write_bytes(write(rows))
    config = CorpusConfig(paths=str(tmp_path), format=format, label_names=NER)
    first, second = read_all(open_corpus(config, (TEXT, LABEL, NUMBERED)))
    assert first == {"text": "a", "label": "B-PER", "tags": ["O", "I-PER"]}
    assert second["label"] is None
    config = CorpusConfig(paths=str(tmp_path), format=format, label_names={-1: "bad", 1: "good"})
    assert [row["label"] for row in read_all(open_corpus(config, (TEXT, LABEL)))] == ["good", "bad"]
    config = CorpusConfig(paths=str(tmp_path), format=format, label_names=["O", "B-PER"])
    with pytest.raises(CorpusError, match=r"tags has 2, expected one of the integers that have a name: 0 \(O\), 1"):
        read_all(open_corpus(config, (TEXT, NUMBERED)))


def test_integers_without_names_are_labels_in_decimal(tmp_path: Path, kind: Kind) -> None:
    format, write = kind
    (tmp_path / f"a.{format}").write_bytes(write([{"text": "a", "tags": [0, 2]}, {"text": "b", "tags": [1]}]))
    assert [row["tags"] for row in read_all(opened(tmp_path, format, (TEXT, NUMBERED)))] == [["0", "2"], ["1"]]


@pytest.mark.parametrize("format", ["jsonl", "parquet"])
@pytest.mark.parametrize("other", [0.8, ["a", "b"]])
def test_labels_of_another_task_are_no_bad_rows(tmp_path: Path, format: str, other: Any) -> None:
    _, write = WRITERS[format]
    column = [0.0, other, 4.0] if isinstance(other, float) else [other] * 3
    (tmp_path / f"a.{format}").write_bytes(write([{"text": "a", "label": label} for label in column]))
    with pytest.raises(CorpusError, match=r"task.name: (regression|multilabel_classification)") as caught:
        opened(tmp_path, format, (TEXT, LABEL)).read(0, skip=True)
    assert not isinstance(caught.value, RowError)
