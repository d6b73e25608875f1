"""The shape of the house, in numbers: `python tests/shape.py`. test_shape.py holds what has to stay true of it.

Rooms stand in the order in which they may use each other: a room imports from itself and from those before it.
"""

import ast
import statistics
from collections.abc import Collection, Iterator, Mapping
from pathlib import Path

from threading_of_parameters import functions_of, longest_chains

from kdcache.targets.registry import RECORDS
from kdcache.tasks.registry import TASKS

PACKAGE = Path(__file__).parent.parent / "kdcache"
ROOMS = (
    *("errors", "near", "disk", "progress", "remote", "hub", "registry", "owned", "config", "launcher", "targets"),
    *("corpus", "tasks", "models", "store", "imports", "share", "stream", "losses", "students", "dump", "train"),
    *("report", "cli"),
)
APART = {("dump", "train"), ("train", "dump")}
"""Rooms that know nothing of each other."""


def files() -> list[Path]:
    return sorted(PACKAGE.rglob("*.py"))


def room(module: str) -> str:
    """The room of "kdcache.store.cache" is "store"; the package itself has none."""
    parts = module.split(".")
    return parts[1] if len(parts) > 1 else ""


def module_of(path: Path) -> str:
    parts = path.relative_to(PACKAGE.parent).with_suffix("").parts
    return ".".join(parts[:-1] if parts[-1] == "__init__" else parts)


def imports(path: Path) -> Iterator[str]:
    """Every module of kdcache that a file imports, at its head or inside a function."""
    for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kdcache":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if _is_module(inner) else node.module
        elif isinstance(node, ast.Import):
            yield from (alias.name for alias in node.names if alias.name.split(".")[0] == "kdcache")


def _is_module(name: str) -> bool:
    path = PACKAGE.parent.joinpath(*name.split("."))
    return path.is_dir() or path.with_suffix(".py").is_file()


def against_the_flow() -> list[str]:
    """Imports from a room that comes later, or of two rooms that are to know nothing of each other."""
    found = []
    for path in files():
        own = room(module_of(path))
        if own in ("", "__main__"):
            continue
        for module in imports(path):
            other = room(module)
            if other and other != own and (ROOMS.index(other) > ROOMS.index(own) or (own, other) in APART):
                found.append(f"{module_of(path)} imports {module}")
    return found


def circles() -> list[list[str]]:
    """Modules that import each other at their heads, found by depth-first search."""
    graph = {module_of(path): set(_at_head(path)) for path in files()}
    found: list[list[str]] = []
    done: set[str] = set()

    def visit(module: str, trail: list[str]) -> None:
        if module in trail:
            found.append(trail[trail.index(module) :])
        elif module not in done:
            for other in sorted(graph.get(module, ())):
                visit(other, [*trail, module])
            done.add(module)

    for module in sorted(graph):
        visit(module, [])
    return found


def _at_head(path: Path) -> Iterator[str]:
    tree = ast.parse(path.read_text(encoding="utf-8"))
    for node in tree.body:
        if isinstance(node, ast.ImportFrom) and node.module and node.module.split(".")[0] == "kdcache":
            for alias in node.names:
                inner = f"{node.module}.{alias.name}"
                yield inner if _is_module(inner) else node.module


def long_functions(limit: int = 60) -> list[tuple[int, str]]:
    """(lines, where) of the functions above so many lines, the longest first."""
    found = []
    for path in files():
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if isinstance(node, ast.FunctionDef | ast.AsyncFunctionDef):
                lines = (node.end_lineno or node.lineno) - node.lineno + 1
                if lines > limit:
                    found.append((lines, f"{module_of(path)}.{node.name}"))
    return sorted(found, reverse=True)


def named_outside(names: Mapping[str, Collection[str]]) -> list[str]:
    """Places where a name of a kind (name -> the rooms that may say it) stands as a string in another room."""
    found = []
    for path in files():
        own = room(module_of(path))
        for node in ast.walk(ast.parse(path.read_text(encoding="utf-8"))):
            if not isinstance(node, ast.Constant) or own in names.get(node.value, (own,)):
                continue
            place = path.relative_to(PACKAGE).as_posix()
            if (place, node.value) not in NOT_KINDS:
                found.append(f"{place}:{node.lineno}: {node.value}")
    return sorted(set(found))


def threaded(above: int = 4) -> list[str]:
    """Parameters that go unchanged through more than so many calls, with the longest chain of each."""
    modules = {module_of(path): path for path in files()}
    return [
        f"{name} ({len(chain) - 1}): {' -> '.join(function.removeprefix('kdcache.') for function in chain)}"
        for name, *chain in longest_chains(functions_of(modules), above)
    ]


KINDS: dict[str, tuple[str, ...]] = {
    **dict.fromkeys(TASKS.built_in, ("tasks",)),
    # A task owns what its records are by default. "features" is the name of an array too.
    **dict.fromkeys([kind for kind in RECORDS.built_in if kind != "features"], ("targets", "tasks")),
}
"""Names of the kinds that come with kdcache, and the rooms that may say them."""
NOT_KINDS = {("students/balance.py", "top_k")}
"""A key of transformers' configs that is called like a kind."""


def main() -> None:
    lengths = [len(path.read_text(encoding="utf-8").splitlines()) for path in files()]
    print(
        f"{len(lengths)} files, {sum(lengths):,} lines, median {statistics.median(lengths):g}, longest {max(lengths)}"
    )
    for title, found in (
        ("import circles", [" -> ".join(circle) for circle in circles()]),
        ("imports against the flow", against_the_flow()),
        ("functions above 60 lines", [f"{name} ({lines})" for lines, name in long_functions()]),
        ("parameters threaded through more than four calls", threaded()),
        ("names of tasks and record kinds outside their rooms", named_outside(KINDS)),
    ):
        print(f"{title}: {len(found) or 'none'}", *found, sep="\n  ")


if __name__ == "__main__":
    main()
