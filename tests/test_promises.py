"""The page of promises names tests that are there, and README sends to it."""

import re
from pathlib import Path

TESTS = Path(__file__).parent
PAGE = (TESTS / "PROMISES.md").read_text(encoding="utf-8")
NAMED = sorted(set(re.findall(r"`((?:\w+/)*test_\w+\.py)(?:::(test_\w+))?`", PAGE)))


def test_every_promise_names_a_test_that_is_there() -> None:
    assert len(NAMED) >= 30
    missing = [f"{file}::{name}" for file, name in NAMED if f"def {name or 'test_'}" not in _text(file)]
    assert missing == []


def test_every_promise_has_a_test() -> None:
    promises = re.findall(r"^- (.+?)(?=\n- |\n\n)", PAGE, re.MULTILINE | re.DOTALL)
    assert len(promises) >= 25
    assert [promise for promise in promises if "test_" not in promise] == []


def test_the_readme_sends_to_the_promises() -> None:
    assert "(tests/PROMISES.md)" in (TESTS.parent / "README.md").read_text(encoding="utf-8")


def _text(file: str) -> str:
    path = TESTS / file
    return path.read_text(encoding="utf-8") if path.exists() else ""
