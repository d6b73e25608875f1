"""What messages of kdcache tell a user to type next, found in its source: python -m tests.next_commands

A command is spelt by `errors.next_command`; what is to be run again is called "the same command".
"""

import ast
import re
from collections.abc import Iterator
from functools import cache
from pathlib import Path

from kdcache.cli import cli

PACKAGE = Path(__file__).parents[1] / "kdcache"
AGAIN = re.compile(r"the\s+same\s+command|run it again")
SPELT = re.compile(rf"(run|[:;,])\s+kdcache ({'|'.join(cli.commands)})")
"""A command that is written out, where a path with a space in it would make two words."""


@cache
def told() -> dict[str, str]:
    """Place -> what is typed there. A place: module and function, and the words of a command that are known."""
    return {place: what for path in sorted(PACKAGE.rglob("*.py")) for place, what in _told_in(path)}


def spelt_out() -> list[str]:
    """Where a command is written out in a message, instead of made by `next_command`."""
    return [f"{where}: {text}" for path in PACKAGE.rglob("*.py") for where, text in _texts(path) if SPELT.search(text)]


def _told_in(path: Path) -> Iterator[tuple[str, str]]:
    for where, node in _inside(ast.parse(path.read_text()), _module(path)):
        if isinstance(node, ast.Call) and isinstance(node.func, ast.Name) and node.func.id == "next_command":
            words = [a.value for a in node.args if isinstance(a, ast.Constant) and isinstance(a.value, str)]
            yield f"{where}: {' '.join(words)}", "command"
    for where, text in _texts(path):
        if AGAIN.search(text):
            yield f"{where}: again", "again"


def _texts(path: Path) -> Iterator[tuple[str, str]]:
    """The strings of a file that are no docstrings, f-strings whole."""
    tree = ast.parse(path.read_text())
    parts = {id(part) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr) for part in ast.walk(node)} - {
        id(node) for node in ast.walk(tree) if isinstance(node, ast.JoinedStr)
    }
    documentation = {id(node.value) for node in ast.walk(tree) if isinstance(node, ast.Expr)}
    for where, node in _inside(tree, _module(path)):
        if isinstance(node, ast.JoinedStr):
            yield where, "".join(str(p.value) if isinstance(p, ast.Constant) else "…" for p in node.values)
        elif isinstance(node, ast.Constant) and isinstance(node.value, str) and id(node) not in parts | documentation:
            yield where, node.value


def _inside(node: ast.AST, where: str) -> Iterator[tuple[str, ast.AST]]:
    for child in ast.iter_child_nodes(node):
        named = isinstance(child, ast.FunctionDef | ast.ClassDef)
        inner = f"{where}.{child.name}" if named else where  # type: ignore[attr-defined]
        yield inner, child
        yield from _inside(child, inner)


def _module(path: Path) -> str:
    return ".".join(path.relative_to(PACKAGE).with_suffix("").parts)


if __name__ == "__main__":
    print("\n".join(told()))
