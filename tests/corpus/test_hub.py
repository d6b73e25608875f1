"""Datasets of Hugging Face's library as a corpus: the files that it names, read as any others."""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import pyarrow as pa
import pytest

from kdcache.corpus import Column, open_corpus
from kdcache.corpus.settings import CorpusConfig
from kdcache.errors import ConfigError, CorpusError

datasets = pytest.importorskip("datasets")

TEXTS = [f"text {i} " + "é" * (i % 3) for i in range(23)]
LABELS = [i % 2 for i in range(23)]
TEXT = Column("text", "text_field")
LABEL = Column("label", "label_field", required=False, kind="label")
MESSAGES = Column("messages", "messages_field", kind="json")
IDS = Column("ids", "tokens_field", kind="integers")
CARD = """---
configs:
- config_name: small
  data_files:
  - split: train
    path: some/a.jsonl
- config_name: large
  data_files:
  - split: train
    path: some/*.jsonl
  - split: held_out
    path: some/b.jsonl
dataset_info:
- config_name: large
  features:
  - name: text
    dtype: string
  - name: label
    dtype:
      class_label:
        names:
          '0': bad
          '1': good
---
A dataset.
"""


def made(texts: list[str] = TEXTS) -> Any:
    chats = [[{"role": "user", "content": text}, {"role": "assistant", "content": "yes"}] for text in texts]
    features = datasets.Features(
        {
            "text": datasets.Value("string"),
            "label": datasets.ClassLabel(names=["bad", "good"]),
            "ids": datasets.List(datasets.Value("int32")),
            "messages": datasets.List({"role": datasets.Value("string"), "content": datasets.Value("string")}),
        }
    )
    rows = {"text": texts, "label": LABELS[: len(texts)], "ids": [[1, 2, i] for i in range(len(texts))]}
    return datasets.Dataset.from_dict(rows | {"messages": chats}, features=features)


def saved(folder: Path) -> Path:
    made().save_to_disk(folder, num_shards=3)
    return folder


def saved_splits(folder: Path) -> Path:
    datasets.DatasetDict({"test": made(TEXTS[:4]), "train": made()}).save_to_disk(folder)
    return folder


def parquet_folder(folder: Path) -> Path:
    (folder / "data").mkdir(parents=True)
    made(TEXTS).to_parquet(folder / "data" / "train-00000-of-00001.parquet")
    made(TEXTS[:4]).to_parquet(folder / "data" / "test-00000-of-00001.parquet")
    return folder


def with_card(folder: Path) -> Path:
    (folder / "some").mkdir(parents=True)
    for name, part in (("a", slice(0, 9)), ("b", slice(9, 23))):
        rows = zip(TEXTS[part], LABELS[part], strict=True)
        lines = (json.dumps({"text": text, "label": label}) + "\n" for text, label in rows)
        (folder / "some" / f"{name}.jsonl").write_text("".join(lines))
    (folder / "README.md").write_text(CARD)
    return folder


def config(path: Path | str, **settings: Any) -> CorpusConfig:
    return CorpusConfig.model_validate({"paths": str(path), "format": "datasets", "unit_rows": 5, **settings})


@pytest.mark.parametrize("make", [saved, saved_splits, parquet_folder])
def test_units_are_ranges_of_the_rows_that_datasets_gives(make: Any, tmp_path: Path) -> None:
    corpus = open_corpus(config(make(tmp_path / "d")), [TEXT, LABEL, MESSAGES, IDS], tmp_path / "index")
    assert (corpus.num_rows, corpus.num_units, corpus.config.split) == (23, 5, "train")
    whole = pa.concat_tables([corpus.unit(unit) for unit in range(corpus.num_units)])
    expected = made()
    assert whole["text"].to_pylist() == TEXTS
    assert whole["label"].to_pylist() == [["bad", "good"][label] for label in LABELS]
    assert whole["messages"].to_pylist() == expected["messages"][:]
    assert whole["ids"].to_pylist() == expected["ids"][:]
    assert corpus.unit(3).equals(open_corpus(config(tmp_path / "d"), corpus.columns).unit(3)), "entered at a row"


def test_equal_rows_have_equal_digests_however_they_are_saved(tmp_path: Path) -> None:
    corpora = [
        open_corpus(config(make(tmp_path / make.__name__)), [TEXT, LABEL]) for make in (saved_splits, parquet_folder)
    ]
    assert len({corpus.unit_sha256(1) for corpus in corpora}) == 1


def test_subset_and_split_of_a_card_and_its_class_names(tmp_path: Path) -> None:
    folder = with_card(tmp_path / "d")
    large = open_corpus(config(folder, subset="large"), [TEXT, LABEL])
    assert [row for table in large.tables() for row in table["text"].to_pylist()] == TEXTS
    assert large.unit(0)["label"].to_pylist() == ["bad", "good", "bad", "good", "bad"]
    held_out = open_corpus(config(folder, subset="large", split="held_out"), [TEXT])
    assert held_out.num_rows == 14
    small = open_corpus(config(folder, subset="small"), [TEXT, LABEL])
    assert (small.num_rows, small.unit(0)["label"].to_pylist()) == (9, ["0", "1", "0", "1", "0"])


def test_class_names_of_a_card_are_in_the_digest(tmp_path: Path) -> None:
    folder = with_card(tmp_path / "d")
    before = open_corpus(config(folder, subset="large"), [TEXT, LABEL]).unit_sha256(0)
    (folder / "README.md").write_text(CARD.replace("good", "fine"))
    assert open_corpus(config(folder, subset="large"), [TEXT, LABEL]).unit_sha256(0) != before


@pytest.mark.parametrize(
    ("settings", "words"),
    [
        ({"split": "tran", "subset": "large"}, "got corpus.split tran, expected one of train, held_out"),
        ({"subset": "lagre"}, "got corpus.subset lagre, expected one of .*did you mean large"),
        ({}, "got no corpus.subset, expected one of "),
        ({"subset": "large", "split": "train[:5]"}, r"got corpus.split train\[:5\], expected one of"),
        ({"subset": "large", "revision": "main"}, "got corpus.revision main for the folder"),
    ],
)
def test_what_is_not_in_a_dataset_is_refused(settings: dict[str, str], words: str, tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=words):
        open_corpus(config(with_card(tmp_path / "d"), **settings), [TEXT])


def test_another_split_of_a_saved_dataset_is_refused(tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match=r"got corpus.split dev, expected one of test, train, the splits of"):
        open_corpus(config(saved_splits(tmp_path / "d"), split="dev"), [TEXT])


@pytest.mark.parametrize(
    "state", ["{", "[]", "{}", '{"_data_files": []}', '{"_data_files": [{"filename": "../x.arrow"}]}']
)
def test_a_damaged_state_is_refused(state: str, tmp_path: Path) -> None:
    (saved(tmp_path / "d") / "state.json").write_text(state)
    with pytest.raises(CorpusError, match=r"state.json .*save .* again|state.json .*save it again"):
        open_corpus(config(tmp_path / "d"), [TEXT])


def test_a_lost_file_of_a_saved_dataset_is_refused(tmp_path: Path) -> None:
    (saved(tmp_path / "d") / "data-00001-of-00003.arrow").unlink()
    with pytest.raises(CorpusError, match=r"data-00001-of-00003.arrow is not there, and .*state.json lists it"):
        open_corpus(config(tmp_path / "d"), [TEXT])


def test_other_kinds_of_folders_are_refused(tmp_path: Path) -> None:
    (tmp_path / "empty").mkdir()
    with pytest.raises(CorpusError, match="datasets cannot tell the files of"):
        open_corpus(config(tmp_path / "empty"), [TEXT])
    (tmp_path / "texts").mkdir()
    (tmp_path / "texts" / "a.txt").write_text("words\n")
    with pytest.raises(CorpusError, match=r"datasets reads as text, expected one of .*set corpus.format: text"):
        open_corpus(config(tmp_path / "texts"), [TEXT])
    with pytest.raises(CorpusError, match="expected a folder that is there, or a name on the Hugging Face hub"):
        open_corpus(config(tmp_path / "nothing" / "here"), [TEXT])


def test_the_hub_without_a_network_is_one_line() -> None:
    with pytest.raises(CorpusError, match=r"cannot find the dataset owner/name on the hub: .*give a folder") as caught:
        open_corpus(config("owner/name"), [TEXT])
    assert "\n" not in str(caught.value)


def test_without_datasets_the_package_and_the_extra_are_named(tmp_path: Path, monkeypatch: pytest.MonkeyPatch) -> None:
    folder = with_card(tmp_path / "d")
    monkeypatch.setitem(sys.modules, "datasets", None)
    with pytest.raises(ConfigError, match=r'without the package datasets, expected it: pip install "kdcache\[hub\]"'):
        open_corpus(config(folder), [TEXT])


@pytest.mark.parametrize("name", ["split", "subset", "revision"])
def test_the_settings_are_of_datasets_alone(name: str) -> None:
    with pytest.raises(ValueError, match=f"got {name} for format jsonl, expected it for datasets only"):
        config("x.jsonl", format="jsonl", **{name: "x"})
    with pytest.raises(ValueError, match=r"got 2 corpus.paths for format datasets, expected one dataset"):
        CorpusConfig.model_validate({"paths": ["a", "b"], "format": "datasets"})


def test_ranks_that_open_a_dataset_at_once_do_not_meet(tmp_path: Path) -> None:
    """Nothing is written beside the dataset, or into the cache folder that datasets has."""
    folder = with_card(tmp_path / "d")
    code = (
        "import sys; from kdcache.corpus import Column, open_corpus; from kdcache.corpus.settings import CorpusConfig\n"
        f"c = CorpusConfig(paths={str(folder)!r}, format='datasets', subset='large', unit_rows=5)\n"
        f"o = open_corpus(c, [Column('text', 'text_field')], __import__('pathlib').Path({str(tmp_path / 'index')!r}))\n"
        "print(o.unit_sha256(2))"
    )
    before = sorted(path.name for path in folder.rglob("*"))
    home = {"HF_HOME": str(tmp_path / "home"), "HF_DATASETS_CACHE": str(tmp_path / "home" / "datasets")}
    ranks = [
        subprocess.Popen([sys.executable, "-c", code], stdout=subprocess.PIPE, text=True, env={**os.environ, **home})
        for _ in range(3)
    ]
    found = {rank.communicate(timeout=120)[0] for rank in ranks}
    assert len(found) == 1
    assert [rank.returncode for rank in ranks] == [0, 0, 0]
    assert sorted(path.name for path in folder.rglob("*")) == before
    assert not list((tmp_path / "home").rglob("*.arrow"))
