"""Parameters that are handed on and on: chains of calls in which a name goes from function to function unchanged.

A link is a call, of a function or method of the package that the caller names, in which a parameter of the caller is
the argument of a parameter with the same name, and is assigned nowhere in the caller. Methods are followed where they
are called on self, cls or a class, so that chains over other objects are not seen; nor are those through partial.
"""

import ast
from collections.abc import Iterator
from dataclasses import dataclass
from pathlib import Path

__all__ = ["Function", "functions_of", "longest_chains"]

Functions = dict[str, "Function"]
"""By dotted name: kdcache.dump.run.run_dump, kdcache.train.loop.Trainer.run."""


@dataclass(frozen=True)
class Function:
    """parameters: without self and cls, those by position first. calls: (dotted name of the callee, the call)."""

    parameters: tuple[str, ...]
    assigned: frozenset[str]
    calls: tuple[tuple[str, ast.Call], ...]


def functions_of(modules: dict[str, Path]) -> Functions:
    """The functions and methods of modules by their dotted names."""
    trees = {module: ast.parse(path.read_text(encoding="utf-8")) for module, path in modules.items()}
    names = {module: _names(module, tree) for module, tree in trees.items()}
    found: Functions = {}
    for module, tree in trees.items():
        for node in tree.body:
            if isinstance(node, ast.FunctionDef):
                found[f"{module}.{node.name}"] = _function(node, names, module, None)
            elif isinstance(node, ast.ClassDef):
                for inner in node.body:
                    if isinstance(inner, ast.FunctionDef):
                        found[f"{module}.{node.name}.{inner.name}"] = _function(inner, names, module, node.name)
    return found


def longest_chains(functions: Functions, above: int) -> list[list[str]]:
    """For each parameter the longest chain of more than so many calls: its name, then the functions in order."""
    links: dict[tuple[str, str], list[str]] = {}
    for caller, function in functions.items():
        for callee, call in function.calls:
            for name in _handed_on(function, functions.get(callee) or functions.get(f"{callee}.__init__"), call):
                links.setdefault((name, caller), []).append(callee if callee in functions else f"{callee}.__init__")
    best: dict[str, list[str]] = {}
    for name, caller in links:
        chain = _longest(name, caller, links, ())
        if len(chain) - 1 > max(above, len(best.get(name, ())) - 1):
            best[name] = chain
    return sorted(([name, *chain] for name, chain in best.items()), key=lambda found: (-len(found), found))


def _longest(name: str, caller: str, links: dict[tuple[str, str], list[str]], seen: tuple[str, ...]) -> list[str]:
    further = [callee for callee in links.get((name, caller), ()) if callee not in (*seen, caller)]
    return [caller, *max((_longest(name, callee, links, (*seen, caller)) for callee in further), key=len, default=[])]


def _handed_on(caller: Function, callee: Function | None, call: ast.Call) -> Iterator[str]:
    if callee is None:
        return
    given = [*zip(callee.parameters, call.args, strict=False), *((word.arg, word.value) for word in call.keywords)]
    for name, value in given:
        unchanged = isinstance(value, ast.Name) and value.id == name and name not in caller.assigned
        if name is not None and unchanged and name in caller.parameters and name in callee.parameters:
            yield name


def _names(module: str, tree: ast.Module) -> dict[str, str]:
    """What the names of a module stand for, wherever in it they are imported."""
    found = {}
    for node in ast.walk(tree):
        if isinstance(node, ast.ImportFrom) and node.module:
            found |= {alias.asname or alias.name: f"{node.module}.{alias.name}" for alias in node.names}
    local = [node.name for node in tree.body if isinstance(node, ast.FunctionDef | ast.ClassDef)]
    return found | {name: f"{module}.{name}" for name in local}


def _function(node: ast.FunctionDef, names: dict[str, dict[str, str]], module: str, owner: str | None) -> Function:
    arguments = [argument.arg for argument in (*node.args.posonlyargs, *node.args.args)]
    static = any(isinstance(mark, ast.Name) and mark.id == "staticmethod" for mark in node.decorator_list)
    bound = arguments[1:] if owner is not None and not static else arguments
    parameters = (*bound, *(argument.arg for argument in node.args.kwonlyargs))
    stored = {n.id for n in ast.walk(node) if isinstance(n, ast.Name) and isinstance(n.ctx, ast.Store)}
    calls = [
        (target, call)
        for call in ast.walk(node)
        if isinstance(call, ast.Call) and (target := _target(call.func, names, module, owner)) is not None
    ]
    return Function(parameters, frozenset(stored), tuple(calls))


def _target(called: ast.expr, names: dict[str, dict[str, str]], module: str, owner: str | None) -> str | None:
    if isinstance(called, ast.Name):
        return _followed(names[module].get(called.id), names)
    if isinstance(called, ast.Attribute) and isinstance(called.value, ast.Name):
        if called.value.id in ("self", "cls"):
            return f"{module}.{owner}.{called.attr}"
        of_class = _followed(names[module].get(called.value.id), names)
        return None if of_class is None else f"{of_class}.{called.attr}"
    return None


def _followed(target: str | None, names: dict[str, dict[str, str]]) -> str | None:
    """Through a package that hands a name on from one of its modules."""
    while target is not None:
        module, _, name = target.rpartition(".")
        further = names.get(module, {}).get(name, target)
        if further == target:
            return target
        target = further
    return None
