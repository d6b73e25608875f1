"""pyproject.toml names what kdcache imports, and nothing is there only because another library brings it along."""

import ast
import re
import sys
import tomllib
from collections.abc import Iterator
from importlib.metadata import packages_distributions
from pathlib import Path

ROOT = Path(__file__).parents[1]

PARTS = {
    "pydantic_core": "pydantic",
    "tokenizers": "transformers",
    "huggingface_hub": "transformers",
    "llvmlite": "numba",
    "aiohttp": "s3fs",
    "triton": "torch",
}
"""Packages of which another one brings along the versions that fit it; where it is not there, they are not imported."""


def imported() -> Iterator[str]:
    for path in (ROOT / "kdcache").rglob("*.py"):
        for node in ast.walk(ast.parse(path.read_text())):
            if isinstance(node, ast.Import):
                yield from (name.name.partition(".")[0] for name in node.names)
            elif isinstance(node, ast.ImportFrom) and node.level == 0:
                yield str(node.module).partition(".")[0]


def test_every_import_is_named() -> None:
    project = tomllib.loads((ROOT / "pyproject.toml").read_text())["project"]
    wanted = [*project["dependencies"], *(one for extra in project["optional-dependencies"].values() for one in extra)]
    named = {re.split(r"[^\w.-]", one)[0].lower().replace("_", "-") for one in wanted}
    there = packages_distributions()
    modules = {*imported()} - {"kdcache", *sys.stdlib_module_names} - PARTS.keys()
    unnamed = {
        module
        for module in modules
        if not named & {name.lower().replace("_", "-") for name in there.get(module, [module])}
    }
    assert unnamed == set()
    assert named >= {*PARTS.values()}
