"""Names of strangers: nothing that steers a terminal reaches it, and nothing but text reaches a model card."""

import io
import json
import re
import sys
from pathlib import Path

import pytest
from helpers import Run
from hypothesis import example, given, settings
from hypothesis import strategies as st
from markdown_it import MarkdownIt
from mutations import steers

from kdcache.errors import as_code, in_markdown, one_line, printable
from kdcache.progress import Progress, say, show
from kdcache.report.evaluate import aligned

HOSTILE = "a\x1b]0;owned\x07\x1b[2J\r\nkdcache: all is well\x9b31m\u202egnp.exe\u2066\u2028\ud800\x00<script>`|"
ANY_TEXT = st.text(st.characters(codec=None) | st.sampled_from(HOSTILE), max_size=40)


@given(ANY_TEXT)
@example(HOSTILE)
def test_a_printable_text_steers_no_terminal(text: str) -> None:
    assert not steers(printable(text))
    assert not steers(printable(text, lines=True), lines=True)
    assert not steers(one_line(ValueError(text)))
    printable(text).encode("utf-8")


@pytest.mark.parametrize("text", ["plain", "émile", "谷歌", "می‌خواهم", "👩‍🔬", "a  b", "ﬁ∑"])
def test_ordinary_text_stays_as_it_is(text: str) -> None:
    assert printable(text) == text


@pytest.mark.parametrize(
    ("text", "shown"),
    [
        ("cannot read https://ann:pw@host/x: no", "cannot read https://…@host/x: no"),
        ("https://ghp_secret@host/x", "https://…@host/x"),
        ("sftp://ann:pw@host/x", "sftp://…@host/x"),
        ("https://h/x?X-Amz-Signature=abc&partNumber=1", "https://h/x?X-Amz-Signature=…&partNumber=1"),
        ("https://h/x?a=1&token=abc, try", "https://h/x?a=1&token=…, try"),
        ("token hf_abcdefghijklmnopqrstuv is refused", "token hf_… is refused"),
        ("hf://datasets/ann/logits@v1/x", "hf://datasets/ann/logits@v1/x"),
        ("s3://bucket/key@2", "s3://bucket/key@2"),
        ("hf_hub_download", "hf_hub_download"),
    ],
)
def test_passwords_and_tokens_are_not_shown(text: str, shown: str) -> None:
    assert printable(text) == shown
    assert one_line(ValueError(text)) == shown


def test_escapes_are_those_of_python() -> None:
    assert printable("\x1b[2J\u202e\n\ud800") == "\\x1b[2J\\u202e\\n\\ud800"
    assert printable("ab\ncd", lines=True) == "ab\ncd"
    assert printable("abcdef", limit=4) == "abc…"


@given(ANY_TEXT)
@example(HOSTILE)
def test_what_is_said_and_shown_steers_no_terminal(text: str) -> None:
    kept, sys.stderr, sys.stdout = (sys.stderr, sys.stdout), io.StringIO(), io.StringIO()
    try:
        say(text)
        show(text)
        with Progress(2, "shards", text) as progress:
            progress.say(text)
            progress.set(name=text)
            progress.advance()
        said = sys.stderr.getvalue() + sys.stdout.getvalue()
    finally:
        sys.stderr, sys.stdout = kept
    assert not steers(said, lines=True)


@given(st.lists(st.lists(ANY_TEXT, min_size=3, max_size=3), min_size=1, max_size=4))
def test_a_table_has_a_line_for_each_row(lines: list[list[str]]) -> None:
    assert len(aligned(lines).split("\n")) == len(lines)


@settings(max_examples=300)
@given(st.text(st.characters(codec="utf-8") | st.sampled_from("|`<>*_[]()!#\\&\n https://www.a.b"), max_size=60))
@example("https://evil.example/x")
@example("www.evil.example")
@example("_a_ __b__")
@example("a`|`b")
@example(HOSTILE[:-12])
def test_a_name_in_a_card_is_nothing_but_text(name: str) -> None:
    """Its cell stays one cell, without HTML, links, images or emphasis, and says the name."""
    reader = MarkdownIt("commonmark", {"linkify": False}).enable("table")
    for shown in (in_markdown(name), as_code(name)):
        card = f"# A student of {shown}\n\n| what | value |\n|---|---|\n| teacher | {shown} |\n| seed | 0 |\n"
        tokens = reader.parse(card)
        kinds = [token.type for token in tokens]
        assert kinds.count("td_open") == 4
        assert kinds.count("tr_open") == 3
        assert "html_block" not in kinds
        inside = {child.type for token in tokens for child in token.children or ()}
        assert inside <= {"text", "code_inline", "text_special"}
        assert not re.search(r"(?<!`)(https?://|www\.)", in_markdown(name)) or "`" in shown


def test_a_card_with_hostile_names(tmp_path: Path) -> None:
    from kdcache.train.export import made_from

    assert printable(HOSTILE).replace("|", "\\|") in in_markdown(HOSTILE)
    folder = tmp_path / "a`b|<script>"
    folder.mkdir()

    class Config:
        path = str(folder)

    assert made_from(Config()) == "`` a`b\\|<script> ``"  # type: ignore[arg-type]


def test_errors_of_hostile_corpora_are_one_line_without_escapes(tmp_path: Path, run: Run, teacher_folder: Path) -> None:
    column = "te\x1b[2Jxt\u202e\n"
    (tmp_path / "c.jsonl").write_text(json.dumps({column: 1}) + "\n")
    for overrides in (
        ["corpus.paths=[c.jsonl]"],
        [f"corpus.paths=[{json.dumps('no' + column)}]"],
        [f"corpus.text_field={json.dumps(column)}"],
        ["corpus={paths: c.jsonl, format: jsonl, " + json.dumps("no" + column) + ": 1}"],
        [f"{column}=1"],
    ):
        (tmp_path / "dump.yaml").write_text(
            f"output: {tmp_path}/cache\ncorpus: {{paths: {tmp_path}/c.jsonl, format: jsonl}}\n"
            f"teacher: {{path: {teacher_folder}, dtype: float32}}\ntask: {{sequence_length: 16}}\n"
        )
        arguments = [part for override in overrides for part in ("-o", override)]
        status, out, err = run("dump-logits", tmp_path / "dump.yaml", "--check", *arguments)
        assert status in (1, 2)
        assert not steers(out + err, lines=True), err
        assert err.count("\nkdcache: ") + err.startswith("kdcache: ") == 1
