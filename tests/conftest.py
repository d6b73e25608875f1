"""What many tests need: a small real teacher with its tokenizer, and the big real one."""

import os
import sys
from collections.abc import Iterator
from pathlib import Path

import hypothesis
import pytest
from helpers import Run, make_model, make_tokenizer
from tokenizer_kit import any_tokenizer, chatml_tokenizer, gpt_tokenizer, kit, llama_tokenizer

from kdcache.cli import main

__all__ = ["any_tokenizer", "chatml_tokenizer", "gpt_tokenizer", "kit", "llama_tokenizer"]  # fixtures

# Machines with other work on them are slow by chance.
hypothesis.settings.register_profile("kdcache", deadline=None)
hypothesis.settings.load_profile("kdcache")
os.environ["HF_HUB_OFFLINE"] = "1"
os.environ["TOKENIZERS_PARALLELISM"] = "false"


def pytest_addoption(parser: pytest.Parser) -> None:
    parser.addoption("--long", action="store_true", help="run the tests of the long profile too")
    parser.addoption("--engines", action="store_true", help="run the tests of inference engines, and no others")


def pytest_collection_modifyitems(config: pytest.Config, items: list[pytest.Item]) -> None:
    if not config.getoption("--long"):
        items[:] = [item for item in items if item.get_closest_marker("long") is None]
    engines = bool(config.getoption("--engines"))
    items[:] = [item for item in items if (item.get_closest_marker("engine") is not None) == engines]


@pytest.fixture(scope="session", autouse=True)
def states(tmp_path_factory: pytest.TempPathFactory) -> Iterator[Path]:
    """Each run of the tests, with all that it starts, has a folder of states of its own."""
    with pytest.MonkeyPatch.context() as patch:
        folder = tmp_path_factory.mktemp("states")
        patch.setenv("XDG_STATE_HOME", str(folder))
        yield folder


@pytest.fixture
def run(monkeypatch: pytest.MonkeyPatch, capfd: pytest.CaptureFixture[str]) -> Run:
    """run("verify", path) -> (exit status, standard output, standard error): the command line in this process."""

    def call(*arguments: object) -> tuple[int, str, str]:
        monkeypatch.setattr(sys, "argv", ["kdcache", *map(str, arguments)])
        capfd.readouterr()
        status = 0
        try:
            main()
        except SystemExit as stop:
            status = int(stop.code or 0)
        return status, *capfd.readouterr()

    return call


@pytest.fixture(scope="session")
def teacher_folder(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A teacher of 330 classes whose tokenizer has 320 ids, as padded vocabularies are."""
    folder = tmp_path_factory.mktemp("teacher")
    make_tokenizer(folder)
    make_model(folder, vocab_size=330)
    return folder


@pytest.fixture(scope="session")
def smollm2_folder() -> Path:
    """The real teacher, fetched by launch/test.sh."""
    folder = os.environ.get("KDCACHE_SMOLLM2")
    if not folder:
        pytest.skip("KDCACHE_SMOLLM2 is not set: bash launch/test.sh fetches the model and sets it")
    return Path(folder)
