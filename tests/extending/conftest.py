"""What the extensions of this folder go through: the command line, and a loop of one's own over the public names."""

from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any

import own_loop
import pytest
import yaml
from helpers import sentences, write_jsonl

import kdcache
from kdcache import cli

Command = Callable[..., None]


@pytest.fixture
def command() -> Command:
    """command("verify", cache, "--module", "extending.npz"): the command line, in this process."""

    def run(*arguments: object) -> None:
        cli.cli.main(args=[*map(str, arguments)], prog_name="kdcache", standalone_mode=False)

    return run


@pytest.fixture
def language_model(tmp_path: Path, teacher_folder: Path) -> Callable[..., Path]:
    """language_model(output, **settings): the settings file of a small dump."""

    def write(output: Path, **settings: Any) -> Path:
        corpus = tmp_path / "corpus.jsonl"
        if not corpus.exists():
            write_jsonl(corpus, sentences(60))
        whole = {
            "output": str(output),
            "corpus": {"paths": str(corpus), "format": "jsonl", "unit_rows": 20},
            "teacher": {"path": str(teacher_folder), "dtype": "float32"},
            "task": {"sequence_length": 32},
            "compute": {"threads": 1},
        } | settings
        path = output.with_suffix(".yaml")
        path.write_text(yaml.safe_dump(whole), encoding="utf-8")
        return path

    return write


@pytest.fixture
def train() -> Callable[..., list[float]]:
    """train(cache, output, config, terms): a student by a loop of one's own, into a folder; the loss of each step."""

    def loop(
        cache: Path, output: Path, config: dict[str, Any], terms: Sequence[dict[str, Any]], steps: int = 12
    ) -> list[float]:
        opened = kdcache.open_cache(cache)
        return own_loop.train(opened, output, config, terms, steps=steps, global_batch=8, learning_rate=0.01)

    return loop
