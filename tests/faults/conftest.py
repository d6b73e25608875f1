"""What the commands of this folder read: a teacher, a corpus, a finished cache; made once."""

import shutil
from pathlib import Path
from typing import Any

import pytest
import yaml
from helpers import make_model, make_tokenizer, sentences, write_jsonl
from imports import capturing
from train.tiny import student_config, train_settings

from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.launcher import World
from kdcache.store.filter import filter_cache


def dump_settings(home: Path, output: Path) -> dict[str, Any]:
    return {
        "output": str(output),
        "corpus": {"paths": str(home / "corpus.jsonl"), "format": "jsonl", "unit_rows": 10},
        "teacher": {"path": str(home / "teacher"), "dtype": "float32"},
        "task": {"sequence_length": 32},
        "compute": {"batch_tokens": 256, "threads": 1},
        "record": {"exact_top_k": 4, "samples": 8},
        "on_bad_row": "skip",
        "bad_rows_at_most": 0.1,
    }


@pytest.fixture(scope="session")
def home(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """teacher, corpus.jsonl and cache."""
    home = tmp_path_factory.mktemp("faults")
    make_tokenizer(home / "teacher")
    make_model(home / "teacher", vocab_size=330)
    rows = write_jsonl(home / "corpus.jsonl", [text[:80] for text in sentences(30)]).read_text().splitlines()
    rows[5] = '{"text": 5}'
    (home / "corpus.jsonl").write_text("\n".join(rows) + "\n")
    run_dump(DumpConfig.model_validate(dump_settings(home, home / "cache")), World())
    return home


@pytest.fixture(scope="session")
def sources(home: Path) -> Path:
    """home, and in it of what else caches are made: a part of the cache, and a capture of another tool."""
    filter_cache(home / "cache", home / "part", "length > 8")
    logits = capturing.table()
    capturing.write_jsonl(home / "captured.jsonl", capturing.vllm_rows(logits, capturing.texts(logits, 8), 4))
    return home


MADE_OF_OTHERS = ("convert", "filter", "merge", "import", "fetch")
"""Commands that make a cache of what others made."""


def making(command: str, home: Path, folder: Path) -> list[object]:
    """One of these commands, whose cache goes into this folder."""
    return {
        "convert": ["convert", home / "cache", folder, "--to", "arrow"],
        "filter": ["filter", home / "cache", "--where", "length > 8", "--out", folder],
        "merge": ["merge", home / "cache", home / "part", "--out", folder],
        "import": [
            *("import", "jsonl", home / "captured.jsonl", "--tokenizer", home / "teacher", "--out", folder),
            *("--rows-per-shard", "3"),
        ],
        "fetch": ["fetch", home / "cache", "--out", folder],
    }[command]


class Starter:
    """Gives one new folder after the other, and deletes the one before."""

    def __init__(self, place: Path) -> None:
        self.place, self.count = place, 0

    def __call__(self) -> Path:
        shutil.rmtree(self.place / str(self.count), ignore_errors=True)
        self.count += 1
        folder = self.place / str(self.count)
        folder.mkdir(parents=True)
        return folder


@pytest.fixture
def start(tmp_path: Path) -> Starter:
    return Starter(tmp_path / "runs")


def written(folder: Path, settings: dict[str, Any]) -> Path:
    """A settings file beside a run's folder."""
    path = folder.parent / f"{folder.name}.yaml"
    path.write_text(yaml.safe_dump(settings))
    return path


def train_settings_of(home: Path, output: Path, **changes: Any) -> dict[str, Any]:
    """A run of six steps, with a checkpoint in the middle."""
    student = {"config": student_config(vocab_size=320)}
    return train_settings(home / "cache", output, student=student, checkpoint={"every": 3}, eval=None, **changes)
