"""Where is what? The package names its rooms, and each room all of its files, so that a stranger finds them."""

import ast
import re
from pathlib import Path

import pytest

PACKAGE = Path(__file__).parent.parent / "kdcache"
ROOMS = sorted(path.parent for path in PACKAGE.rglob("__init__.py"))


@pytest.mark.parametrize("room", ROOMS, ids=lambda room: room.name)
def test_a_room_names_its_files_and_rooms(room: Path) -> None:
    words = re.findall(r"\w+", ast.get_docstring(ast.parse((room / "__init__.py").read_text(encoding="utf-8"))) or "")
    inside = {path.stem for path in room.glob("*.py")} | {path.parent.name for path in room.glob("*/__init__.py")}
    assert sorted(inside - {"__init__", "__main__", *words}) == []


@pytest.mark.parametrize("room", ["tasks", "targets", "losses", "store", "models", "imports", "dump/engines"])
def test_a_room_of_kinds_says_how_to_add_one(room: str) -> None:
    about = ast.get_docstring(ast.parse((PACKAGE / room / "__init__.py").read_text(encoding="utf-8"))) or ""
    assert "How to add" in about
    assert "register_" in about
