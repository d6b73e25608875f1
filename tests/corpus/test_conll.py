"""Sentences of words and tags, however the file is written, read in pieces and cut into units."""

import hashlib
import re
import uuid
from pathlib import Path
from unittest import mock

import fsspec
import pyarrow as pa
import pytest
from hypothesis import given, settings
from hypothesis import strategies as st

from kdcache.corpus import Column, Corpus, open_corpus
from kdcache.corpus import index as index_module
from kdcache.corpus import lines as lines_module
from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import CorpusError

COLUMNS = (
    Column("tokens", "tokens_field", kind="words"),
    Column("tags", "tags_field", required=False, kind="words"),
)

Sentence = tuple[list[str], list[str] | None]

word = st.one_of(
    st.text(st.characters(exclude_categories=["Cs"], exclude_characters="\0\t\n\r \ufeff#01"), min_size=1, max_size=4),
    st.sampled_from(["-", "--", "-DOCSTART", "-DOCSTART-x", "，", "的", "\u3000", "\x0b", "\x85"]),
)
tag = st.sampled_from(["O", "B-PER", "I-PER"])
sentence = st.one_of(
    st.lists(st.tuples(word, tag), min_size=1, max_size=4).map(lambda rows: tuple(map(list, zip(*rows, strict=True)))),
    st.lists(word, min_size=1, max_size=4).map(lambda words: (words, None)),
)
between = st.lists(
    st.sampled_from(["", " ", "\t \t", "-DOCSTART- -X- -X- O", "-DOCSTART-", "-DOCSTART-\tO"]), min_size=1, max_size=3
)


def opened(paths: object, unit_rows: int = 1) -> Corpus:
    return open_corpus(CorpusConfig(paths=paths, format="conll", unit_rows=unit_rows), COLUMNS)


def read_all(corpus: Corpus) -> list[Sentence]:
    rows = pa.concat_tables([corpus.unit(unit) for unit in range(corpus.num_units)])
    return list(zip(rows["tokens"].to_pylist(), rows["tags"].to_pylist(), strict=True))


@st.composite
def files(draw: st.DrawFn) -> tuple[bytes, list[Sentence], list[int]]:
    """A file, its sentences, and the line that each begins on. All words with a tag have the same columns."""
    lines = draw(st.one_of(st.just([]), between))
    middle = draw(st.sampled_from([" ", "   ", "\t", "\t_\t", " _ x "]))
    sentences, places = draw(st.lists(sentence, max_size=6)), []
    for words, tags in sentences:
        places.append(len(lines) + 1)
        lines += words if tags is None else [f"{word}{middle}{tag}" for word, tag in zip(words, tags, strict=True)]
        lines += draw(between)
    end = draw(st.sampled_from(["\n", "\r\n", " \n"]))
    text = end.join(lines)
    if draw(st.booleans()):
        text = text.rstrip(" \t\r\n")
    return draw(st.sampled_from([b"", b"\xef\xbb\xbf"])) + text.encode(), sentences, places


@settings(max_examples=80, deadline=None)
@given(
    files=st.lists(files(), min_size=1, max_size=3).filter(lambda files: any(rows for _, rows, _ in files)),
    unit_rows=st.integers(1, 7),
    chunk=st.integers(1, 40),
)
def test_units_joined_are_the_sentences(files, unit_rows, chunk):
    folder = f"/corpus-{uuid.uuid4().hex}"
    fs = fsspec.filesystem("memory")
    for number, (content, _, _) in enumerate(files):
        fs.pipe_file(f"{folder}/{number}.conll", content)
    try:
        with mock.patch.object(lines_module, "CHUNK", chunk), mock.patch.object(index_module, "MAX_MARKS", 2):
            corpus = opened(f"memory:/{folder}", unit_rows)
            assert read_all(corpus) == [row for _, rows, _ in files for row in rows]
            places = [corpus.where(row // unit_rows, row % unit_rows) for row in range(corpus.num_rows)]
        assert places == [f"{number}.conll:{line}" for number, (_, _, lines) in enumerate(files) for line in lines]
    finally:
        fs.rm(folder, recursive=True)


def test_words_with_spaces_where_tabs_part_columns(tmp_path):
    (tmp_path / "a.bio").write_text("New York\tB-LOC\n \tO\nis \tO\n")
    assert read_all(opened(str(tmp_path))) == [(["New York", " ", "is "], ["B-LOC", "O", "O"])]


def test_a_sentence_is_a_unit_of_its_own_bytes(tmp_path):
    pieces = [b"a O\nb O\n\n\n", b"c O\n-DOCSTART- O\n\n", b"d\ne\n"]
    (tmp_path / "a.iob").write_bytes(b"".join(pieces))
    corpus = opened(str(tmp_path))
    assert [corpus.unit_sha256(unit) for unit in range(3)] == [hashlib.sha256(piece).hexdigest() for piece in pieces]
    assert corpus.pin["rows"] == 3
    (tmp_path / "a.iob").write_bytes(b"\xff" * len(pieces[0]) + pieces[1] + b"\xff" * len(pieces[2]))
    assert corpus.unit(1).to_pylist() == [{"tokens": ["c"], "tags": ["O"]}]


def test_only_the_columns_asked_for(tmp_path):
    path = tmp_path / "a.conll"
    path.write_text("a O\n\nb\n")
    corpus = open_corpus(CorpusConfig(paths=str(path), format="conll", unit_rows=2), COLUMNS[:1])
    assert corpus.unit(0).to_pydict() == {"tokens": [["a"], ["b"]]}
    types = opened(str(path), 2).unit(0).schema.types
    assert types == [pa.list_(pa.string())] * 2


def test_the_fields_need_no_setting():
    config = CorpusConfig(paths="a.conll", format="conll")
    assert (config.tokens_field, config.tags_field) == ("tokens", "tags")
    assert CorpusConfig(paths="a.conll", format="conll", tags_field=None).tags_field is None
    assert CorpusConfig(paths="a.jsonl", format="jsonl").tokens_field is None


@pytest.mark.parametrize(
    ("content", "words"),
    [
        (b"a O\n\nb O\nc\nd O\n", ["bad.conll:4 has no tag where its sentence has others", "a TAB and its tag"]),
        (b"a O\n\nb\nc O\n", ["bad.conll:3 has no tag"]),
        (b"a O\n\nb O\n O\n", ["bad.conll:4 begins with white space, expected a word"]),
        (b"a O\n\nb\tO\n\tO\n", ["bad.conll:4 begins with white space"]),
        (b"a O\n\nb O\nc\xff O\n", ["bad.conll:4 is not UTF-8", "byte 1 of the line"]),
        (b"\n\n-DOCSTART- O\n\n", ["no row in bad.conll"]),
        (b"", ["no row in bad.conll"]),
        ("a O\n".encode("utf-16"), ["bad.conll is UTF-16", "convert it: iconv"]),
    ],
)
def test_bad_files(tmp_path: Path, content: bytes, words: list[str]) -> None:
    path = tmp_path / "bad.conll"
    path.write_bytes(content)
    with pytest.raises(CorpusError) as caught:
        read_all(opened(str(path), 5))
    message = str(caught.value)
    assert "\n" not in message
    assert all(word in message for word in words)


def test_tags_that_have_to_be_there(tmp_path):
    (tmp_path / "a.conll").write_text("a O\n\n\nb\nc\n")
    config = CorpusConfig(paths=str(tmp_path), format="conll", unit_rows=9)
    corpus = open_corpus(config, (Column("tags", "tags_field", kind="words"),))
    with pytest.raises(CorpusError, match=r"a\.conll:4: tags is null, expected a list of strings; leave such"):
        corpus.unit(0)


def test_another_name_for_its_fields_is_refused(tmp_path):
    (tmp_path / "a.conll").write_text("a O\n")
    config = CorpusConfig(paths=str(tmp_path), format="conll")
    for required in (True, False):
        column = Column("ner", "tags_field", required, "words")
        with pytest.raises(CorpusError, match=r"a\.conll has no field ner, it has tokens, tags; set corpus"):
            open_corpus(config, (COLUMNS[0], column))


CASES = {
    "ud": (
        "# sent_id = 1\n# text = Don't go.\n"
        "1-2\tDon't\t_\t_\t_\t_\t_\t_\t_\t_\n1\tDo\tdo\tAUX\tVBP\t_\t3\taux\t_\t_\n2\tn't\tnot\tPART\tRB\t_\t3\tadvmod\t_\t_\n"
        "3\tgo\tgo\tVERB\tVB\t_\t0\troot\t_\tSpaceAfter=No\n3.1\t_\t_\tX\t_\t_\t_\t_\t_\t_\n4\t.\t.\tPUNCT\t.\t_\t3\tpunct\t_\t_\n\n"
        "# sent_id = 2\n1\t#\t#\tSYM\t_\t_\t0\troot\t_\t_\n\n# the end\n"
    ),
    "germ": "#\thttp://de.wikipedia.org\t2009\n1\tFC\tB-ORG\tO\n2\tBayern\tI-ORG\tB-LOC\n\n1\tspielt\tO\tO\n",
    "germ plain": "1\tFC\tB-ORG\tO\n2\tBayern\tI-ORG\tB-LOC\n\n1\tspielt\tO\tO\n",
    "counted": "1 FC\n2 Bayern\n\n1 spielt\n",
    "comments": "# id 1 of 2\nFC B\nBayern I\n\n# id 2 of 2\nspielt O\n",
    "ragged": "FC B\nBayern I LOC\nspielt O\n",
    "commas": "FC,B\nBayern,I\n\nspielt,O\n",
    "tags first": "B-ORG\tFC\nI-ORG\tBayern\n\nO\tspielt\n",
}  # fmt: skip
DONT = (["Do", "n't", "go", "."], ["AUX", "PART", "VERB", "PUNCT"])
BAYERN = [(["FC", "Bayern"], ["B-ORG", "I-ORG"]), (["spielt"], ["O"])]


@pytest.mark.parametrize(
    ("case", "name", "more", "expected"),
    [
        ("ud", "a.conllu", {"tags_field": "upos"}, [DONT, (["#"], ["SYM"])]),
        ("ud", "a.conllu", {"tags_field": 4}, [DONT, (["#"], ["SYM"])]),
        ("ud", "a.txt", {"tags_field": "xpos"}, [(DONT[0], ["VBP", "RB", "VB", "."]), (["#"], None)]),
        ("ud", "a.txt", {"tags_field": "feats", "tokens_field": "lemma"},
         [(["do", "not", "go", "."], ["_"] * 4), (["#"], ["_"])]),
        ("ud", "a.conllu", {"tags_field": None}, [(DONT[0], None), (["#"], None)]),
        ("germ plain", "a.tsv", {"tokens_field": 2, "tags_field": 3}, BAYERN),
        ("germ", "a.tsv", {"tokens_field": 2, "tags_field": -2, "comment": "#"}, BAYERN),
        ("germ plain", "a.tsv", {"tokens_field": 1, "tags_field": 2},
         [(["1", "2"], ["FC", "Bayern"]), (["1"], ["spielt"])]),
        ("comments", "a.txt", {"comment": "#"}, [(["FC", "Bayern"], ["B", "I"]), (["spielt"], ["O"])]),
        ("tags first", "a.txt", {"tokens_field": 2, "tags_field": 1}, BAYERN),
        ("ud", "a.conllu", {"tags_field": "UPOS"}, [DONT, (["#"], ["SYM"])]),
        ("commas", "a.txt", {"delimiter": "comma"}, [(["FC", "Bayern"], ["B", "I"]), (["spielt"], ["O"])]),
        ("ragged", "a.txt", {"tokens_field": 1, "tags_field": 2}, [(["FC", "Bayern", "spielt"], ["B", "I", "O"])]),
    ],
)  # fmt: skip
def test_columns_by_setting(tmp_path: Path, case: str, name: str, more: dict, expected: list[Sentence]) -> None:
    (tmp_path / name).write_text(CASES[case])
    for rows, marks in ((1, 1 << 20), (9, 1)):
        with mock.patch.object(index_module, "MAX_MARKS", marks):
            config = CorpusConfig(paths=str(tmp_path / name), format="conll", unit_rows=rows, **more)
            assert read_all(open_corpus(config, COLUMNS)) == expected


@pytest.mark.parametrize(
    ("case", "name", "more", "words"),
    [
        ("ud", "a.conllu", {}, "a.conllu is CoNLL-U, whose last column is no tag; set corpus.tags_field: upos"),
        ("ud", "a.txt", {}, "a.txt is CoNLL-U, whose last column is no tag; set corpus.tags_field: upos"),
        ("ud", "a.txt", {"tokens_field": 2, "tags_field": 4, "comment": "#"}, "a.txt is CoNLL-U"),
        ("germ", "a.txt", {}, "a.txt:2 begins with a running number, expected a word; set corpus.tokens_field: 2"),
        ("counted", "a.txt", {}, "a.txt:1 begins with a running number"),
        ("germ", "a.txt", {"tokens_field": 2, "tags_field": 3}, "a.txt:1 begins with # and has 3 columns"),
        ("germ plain", "a.txt", {"tokens_field": 2, "tags_field": 5}, "a.txt has 4 columns, expected tags in column 5"),
        ("germ plain", "a.txt", {"tokens_field": 5}, "a.txt:1 has 4 columns, expected a word in column 5"),
        ("comments", "a.txt", {}, "a.txt:1 begins with # and has 5 columns where other lines have 2"),
        ("ragged", "a.txt", {}, "a.txt:2 has 3 columns where other lines have 2, expected a word first and its"),
        ("tags first", "a.txt", {}, "a.txt:1 begins with the tag B-ORG, as all lines do, expected a word"),
        ("commas", "a.txt", {}, "a.txt:1 has one column, 'FC,B', expected a word and its tag; set corpus.del"),
        ("comments", "a.txt", {"tags_field": "upos"}, "has 1 columns, expected the 10 of CoNLL-U"),
    ],
)  # fmt: skip
def test_what_two_columns_cannot_be(tmp_path: Path, case: str, name: str, more: dict, words: str) -> None:
    (tmp_path / name).write_text(CASES[case])
    config = CorpusConfig(paths=str(tmp_path / name), format="conll", unit_rows=9, **more)
    with pytest.raises(CorpusError) as caught:
        read_all(open_corpus(config, COLUMNS))
    assert words in str(caught.value)
    assert "\n" not in str(caught.value)


def test_a_line_of_another_length_is_found_beyond_the_files_beginning(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("FC B\n\n" * 9 + "spielt _ O\n")
    with mock.patch.object(lines_module, "CHUNK", 20), pytest.raises(CorpusError, match=r"a\.txt:19 has 3 columns"):
        read_all(opened(str(tmp_path / "a.txt")))


def test_a_hash_may_be_a_word_and_an_index_is_of_its_settings(tmp_path: Path) -> None:
    (tmp_path / "a.txt").write_text("# O\n#tag B\n")
    config = CorpusConfig(paths=str(tmp_path / "a.txt"), format="conll")
    assert read_all(open_corpus(config, COLUMNS, tmp_path / "index")) == [(["#", "#tag"], ["O", "B"])]
    skipped = CorpusConfig(paths=str(tmp_path / "a.txt"), format="conll", comment="#t")
    assert read_all(open_corpus(skipped, COLUMNS, tmp_path / "index")) == [(["#"], ["O"])]


@pytest.mark.parametrize(
    ("more", "words"),
    [
        ({"tags_field": 0}, "got tags_field 0 for format conll, expected tags, the number of a column, counted from 1"),
        ({"tokens_field": "word"}, "got tokens_field word for format conll"),
        ({"delimiter": "--"}, "expected one character, or tab, space"),
        ({"quotes": False}, "got quotes for format conll, expected it for csv only"),
        ({"comment": ""}, "comment"),
        ({"label_names": 5}, "got 5, expected a list of names, or a mapping from integers to names"),
    ],
)
def test_settings_that_are_none(more: dict, words: str) -> None:
    with pytest.raises(ValueError, match=re.escape(words)):
        CorpusConfig(paths="a", format="conll", **more)
