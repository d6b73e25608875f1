"""Duplicates, conflicts and the split of the fetched sets, on small rows; nothing is fetched."""

import json
import sys
from collections import Counter
from pathlib import Path

import fetch_tasks
import pytest
from fetch_tasks import SPLITS, counted, distinct, make, split, split_of

TAGGED = [(f"北京{at}", ("B-LOC", "I-LOC", *"O" * len(str(at)))) for at in range(40)]


def rows_of(path: Path) -> list[dict]:
    return [json.loads(line) for line in path.read_text(encoding="utf-8").splitlines()]


def test_a_text_counts_once_and_with_two_labels_not_at_all() -> None:
    rows = [
        ("good  film ", "positive"),
        ("bad film", "negative"),
        ("good film", "positive"),
        ("\tgood\u3000film", "positive"),
        ("so so", "negative"),
        ("so so", "positive"),
        ("so so", "positive"),
        (" ", "negative"),
    ]
    assert distinct(rows) == ({"good film": "positive", "bad film": "negative"}, 4, 1)


def test_an_unclear_rating_conflicts_with_a_clear_one() -> None:
    assert distinct([("hm", None), ("hm", "positive"), ("eh", None), ("eh", None)]) == ({"eh": None}, 2, 1)


def test_tags_are_labels_too() -> None:
    assert distinct([("北京", ("B-LOC", "I-LOC")), ("北京", ("O", "O"))]) == ({}, 1, 1)


def test_the_split_is_pinned() -> None:
    expected = {
        "Ok": "train",
        "Yup": "unlabelled",
        "Touché!": "train",
        ":)": "train",
        "Eh.": "test",
        "Crummy.": "unlabelled",
        "不错！": "train",
        "推荐。": "train",
        "图片新闻": "unlabelled",
    }
    assert {text: split_of(text) for text in expected} == expected


def test_the_split_has_its_shares() -> None:
    shares = Counter(split_of(f"text {at}") for at in range(20_000))
    assert shares["train"] / 20_000 == pytest.approx(0.6, abs=0.01)
    assert shares["unlabelled"] / 20_000 == pytest.approx(0.2, abs=0.01)


def test_the_split_depends_on_no_other_text_and_no_order() -> None:
    rows = {f"text {at}": "ham" if at % 3 else "spam" for at in range(200)}
    whole, part = split(rows), split(dict(reversed(list(rows.items())[:100])))
    for name in SPLITS:
        assert list(part[name]) == [text for text in whole[name] if text in part[name]]
        assert all(rows[text] == label for text, label in whole[name].items())
    assert sorted(text for name in SPLITS for text in whole[name]) == sorted(rows)


def test_rows_without_a_label_are_unlabelled() -> None:
    rows = {f"text {at}": None for at in range(50)}
    assert {name: len(part) for name, part in split(rows).items()} == {"train": 0, "unlabelled": 50, "test": 0}


def test_counts_are_of_classes_or_spans() -> None:
    assert counted(["spam", "ham", "ham"]) == "ham 2, spam 1"
    assert counted([("B-LOC", "I-LOC", "O", "B-LOC"), ("B-PER",)]) == "LOC 2, PER 1"


def test_files_of_classes(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    rows = [(f"短信 {at}", "ham" if at % 4 else "spam") for at in range(60)]
    monkeypatch.setitem(fetch_tasks.SETS, "spam", lambda: iter([*rows, *rows[:5], ("both", "ham"), ("both", "spam")]))
    line = make("spam", tmp_path)
    assert line.endswith("left out 6 duplicate rows and 1 texts with conflicting labels")
    assert sorted(path.name for path in tmp_path.iterdir()) == ["test.jsonl", "train.jsonl", "unlabelled.jsonl"]
    labelled = rows_of(tmp_path / "train.jsonl") + rows_of(tmp_path / "test.jsonl")
    unlabelled = rows_of(tmp_path / "unlabelled.jsonl")
    assert all(row.keys() == {"text", "label"} and dict(rows)[row["text"]] == row["label"] for row in labelled)
    assert all(row.keys() == {"text"} for row in unlabelled)
    assert sorted(row["text"] for row in labelled + unlabelled) == sorted(text for text, _ in rows)


def test_files_of_tagged_characters(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    monkeypatch.setitem(fetch_tasks.SETS, "ner-zh", lambda: iter(TAGGED))
    make("ner-zh", tmp_path)
    bare = (tmp_path / "unlabelled.conll").read_text(encoding="utf-8").strip("\n").split("\n\n")
    seen = {sentence.replace("\n", "") for sentence in bare}
    assert seen
    for name in ("train", "test"):
        content = (tmp_path / f"{name}.conll").read_text(encoding="utf-8")
        assert content.endswith("\n")
        assert not content.endswith("\n\n")
        for sentence in content.strip("\n").split("\n\n"):
            characters, tags = zip(*(line.split("\t") for line in sentence.split("\n")), strict=True)
            assert dict(TAGGED)["".join(characters)] == tags
            seen.add("".join(characters))
    assert seen == set(dict(TAGGED))


def test_a_second_run_makes_only_what_it_is_asked_for(
    tmp_path: Path, monkeypatch: pytest.MonkeyPatch, capsys: pytest.CaptureFixture[str]
) -> None:
    for name in fetch_tasks.SETS:
        monkeypatch.setitem(fetch_tasks.SETS, name, lambda: iter(TAGGED))

    def made(*options: str) -> list[str]:
        monkeypatch.setattr(sys, "argv", ["fetch_tasks.py", str(tmp_path), *options])
        fetch_tasks.main()
        return [line.split(":")[0] for line in capsys.readouterr().out.splitlines()]

    assert made("--only", "spam", "ner-zh") == ["spam", "ner-zh"]
    (tmp_path / "spam" / "test.jsonl").unlink()
    assert made() == ["sentiment-en", "spam", "sentiment-zh"]
    times = {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")}
    assert made() == []
    assert made("--only", "spam") == ["spam"]
    assert made("--force") == list(fetch_tasks.SETS)
    assert {path: path.stat().st_mtime_ns for path in tmp_path.rglob("*.*")} == times
