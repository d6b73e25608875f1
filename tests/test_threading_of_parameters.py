"""The measure of shape.py counts calls that hand a name on unchanged, over modules, classes and packages."""

from pathlib import Path

from threading_of_parameters import functions_of, longest_chains

FIRST = """
from package import second

def one(path, *, skip):
    two(path, skip)

def two(path, skip):
    Thing(path, skip=skip)
    skip = not skip
    second(skip=skip)

class Thing:
    def __init__(self, path, skip):
        self.load(path)
        second(skip)

    def load(self, path):
        second(path=path)
"""
SECOND = "def second(skip=False, path=None):\n    third(skip)\n\n\ndef third(other):\n    pass\n"


def test_chains_are_followed_through_functions_constructors_and_methods(tmp_path: Path) -> None:
    sources = {"package": "from package.inner import second\n", "package.inner": SECOND, "package.first": FIRST}
    modules = {}
    for module, source in sources.items():
        modules[module] = tmp_path / f"{module}.py"
        modules[module].write_text(source)
    functions = functions_of(modules)
    first, inner = "package.first", "package.inner.second"
    path = [f"{first}.one", f"{first}.two", f"{first}.Thing.__init__", f"{first}.Thing.load", inner]
    # `two` assigns skip, so that its own calls do not hand it on unchanged.
    assert longest_chains(functions, 0) == [["path", *path], ["skip", *path[:2]]]
    assert longest_chains(functions, 3) == [["path", *path]]
    assert longest_chains(functions, 4) == []
