"""Where: an expression that chooses examples, read by a small grammar of Python's and never evaluated as Python.

    length <= 512 and mean_entropy(1) > 0.5
    label in ("joy", "anger") or has("fear")
    number in ids("keep.txt") and random(7) < 0.1

Numbers and texts, `and or not`, comparisons (also in a chain), `in` and `not in`, `+ - * /`, and the names and
functions of `asked.py`. Python's own parser makes the tree; of its nodes those below have a meaning here, and any
other is refused. Each node has one of three types (truth, number, text), so that nonsense is told before a shard is
read.
"""

import ast
import hashlib
import operator
from collections.abc import Callable, Iterable, Mapping, Sequence
from pathlib import Path
from typing import Any, NamedTuple

import numpy as np

from kdcache.errors import ConfigError, one_line
from kdcache.near import did_you_mean
from kdcache.store.asked import FUNCTIONS, NAMES, Examples, Type, check_asked, type_of
from kdcache.store.manifest import Header

__all__ = ["Where"]

MOST_TEXT = 10_000
MOST_IDS = 64 << 20
COMPARE: Mapping[type[ast.cmpop], Callable[[Any, Any], Any]] = {
    ast.Lt: operator.lt,
    ast.LtE: operator.le,
    ast.Gt: operator.gt,
    ast.GtE: operator.ge,
    ast.Eq: operator.eq,
    ast.NotEq: operator.ne,
}
COMPUTE: Mapping[type[ast.operator], Callable[[Any, Any], Any]] = {
    ast.Add: operator.add,
    ast.Sub: operator.sub,
    ast.Mult: operator.mul,
    ast.Div: np.true_divide,
}


class _Node(NamedTuple):
    """type: of its values. of: gives them for some examples, an array with one of each or one for all."""

    type: Type
    of: Callable[[Examples], Any]


class Where:
    """An expression over the examples of a cache.

    Attributes:
        text: The one text of its meaning, with the digests of the files that it names.
    """

    def __init__(self, text: str, header: Header) -> None:
        """Read an expression.

        Args:
            text: As above.
            header: Of the cache whose examples it is asked of.

        Raises:
            ConfigError: It is no such expression, or asks what this cache does not say.
        """
        self._header, self._given = header, text
        if len(text) > MOST_TEXT:
            raise ConfigError(f"got --where of {len(text):,} characters, expected at most {MOST_TEXT:,}")
        try:
            tree = ast.parse(text.strip(), mode="eval").body
            self._root = self._truth(tree)
            self.text = ast.unparse(tree)
        except (SyntaxError, ValueError, OverflowError):
            raise self._refused("is no expression", "such as length <= 512 and mean_entropy(1) > 0.5") from None
        except (RecursionError, MemoryError):
            raise self._refused("is nested too deeply", "a simpler one") from None

    def chosen(self, examples: Examples) -> np.ndarray:
        """Which examples it is true of, bool [B]. Raises CacheError where they do not say what it asks."""
        with np.errstate(divide="ignore", invalid="ignore", over="ignore"):
            return np.broadcast_to(np.asarray(self._root.of(examples), bool), len(examples))

    def _refused(self, what: str, expected: str) -> ConfigError:
        shown = self._given if len(self._given) <= 80 else f"{self._given[:77]}…"
        return ConfigError(f"got --where {shown!r}, which {what}, expected {expected}; see kdcache filter --help")

    def _truth(self, tree: ast.expr) -> _Node:
        node = self._node(tree)
        if node.type != "truth":
            what = f"has the {node.type} {_shown(tree)} for a condition"
            raise self._refused(what, "a comparison such as length <= 512")
        return node

    def _number(self, tree: ast.expr) -> _Node:
        node = self._node(tree)
        if node.type != "number":
            raise self._refused(f"computes with {_shown(tree)}", "a number")
        return node

    def _node(self, tree: ast.expr) -> _Node:
        match tree:
            case ast.Constant(value=bool(constant)):
                return _constant("truth", constant)
            case ast.Constant(value=str(constant)):
                return _constant("text", constant)
            case ast.Constant(value=int(constant) | float(constant)):
                return _constant("number", constant if abs(constant) < 1 << 62 else float(constant))
            case ast.Name(id=name):
                return self._asked(name, ())
            case ast.Call():
                return self._called(tree)
            case ast.BoolOp(op=op, values=values):
                nodes = [self._truth(value) for value in values]
                both = np.logical_and if isinstance(op, ast.And) else np.logical_or
                return _Node("truth", lambda examples: _reduced(both, (node.of(examples) for node in nodes)))
            case ast.UnaryOp(op=ast.Not(), operand=operand):
                inner = self._truth(operand)
                return _Node("truth", lambda examples: np.logical_not(inner.of(examples)))
            case ast.UnaryOp(op=ast.USub(), operand=operand):
                inner = self._number(operand)
                return _Node("number", lambda examples: -inner.of(examples))
            case ast.BinOp(left=left, op=op, right=right) if type(op) in COMPUTE:
                one, other, compute = self._number(left), self._number(right), COMPUTE[type(op)]
                return _Node("number", lambda examples: compute(one.of(examples), other.of(examples)))
            case ast.Compare():
                return self._compared(tree)
        raise self._refused(f"has {_shown(tree)}", "numbers, texts, names, functions, comparisons, and, or, not")

    def _compared(self, tree: ast.Compare) -> _Node:
        operands = [tree.left, *tree.comparators]
        parts = [self._pair(*three) for three in zip(operands, tree.ops, operands[1:], strict=False)]
        return _Node("truth", lambda examples: _reduced(np.logical_and, (part(examples) for part in parts)))

    def _pair(self, left: ast.expr, op: ast.cmpop, right: ast.expr) -> Callable[[Examples], Any]:
        one = self._node(left)
        if isinstance(op, ast.In | ast.NotIn):
            among = self._members(one, left, right)
            inverse = isinstance(op, ast.NotIn)
            return lambda examples: among(one.of(examples)) ^ inverse
        other = self._node(right)
        if type(op) not in COMPARE or one.type != other.type or (one.type == "text" and not _is_equality(op)):
            what = f"compares {_shown(left)} with {_shown(right)}"
            raise self._refused(what, "two numbers, or two texts by == or !=")
        for this, that in ((left, right), (right, left)):
            self._check_label(this, [that])
        compare = COMPARE[type(op)]
        return lambda examples: compare(one.of(examples), other.of(examples))

    def _members(self, one: _Node, left: ast.expr, right: ast.expr) -> Callable[[Any], Any]:
        """What stands after `in`, a list of constants or the numbers of a file: values -> which are in it."""
        if isinstance(right, ast.Call) and isinstance(right.func, ast.Name) and right.func.id == "ids":
            if one.type != "number":
                raise self._refused(f"looks for {_shown(left)} in a file of numbers", "number in ids(FILE)")
            return self._ids(right)
        if not isinstance(right, ast.Tuple | ast.List) or not right.elts:
            raise self._refused(f"has {_shown(right)} after in", "a list such as (3, 5), or ids(FILE)")
        nodes = [self._node(element) for element in right.elts]
        plain = all(isinstance(element, ast.Constant) for element in right.elts)
        if not plain or {node.type for node in nodes} != {one.type}:
            raise self._refused(f"has {_shown(right)} after in", f"a list of {one.type}s, as {_shown(left)} is one")
        self._check_label(left, right.elts)
        members = np.array([element.value for element in right.elts if isinstance(element, ast.Constant)])
        return lambda values: np.isin(values, members)

    def _ids(self, tree: ast.Call) -> Callable[[Any], Any]:
        """The numbers in a file; its digest becomes part of the expression."""
        match tree.args:
            case [ast.Constant(value=str(path))] if all(word.arg == "sha256" for word in tree.keywords):
                pass
            case _:
                raise self._refused(f"has {_shown(tree)}", 'the name of a file, ids("keep.txt")')
        data = _bytes_of(path)
        digest = hashlib.sha256(data).hexdigest()
        for word in tree.keywords:
            if not isinstance(word.value, ast.Constant) or word.value.value != digest:
                raise ConfigError(f"got ids({path!r}) with sha256 {digest}, expected {_shown(word.value)}")
        tree.args = [ast.Constant(Path(path).name)]
        tree.keywords = [ast.keyword("sha256", ast.Constant(digest))]
        return _among(*_ranges_in(path, data))

    def _called(self, tree: ast.Call) -> _Node:
        if not isinstance(tree.func, ast.Name) or tree.keywords:
            raise self._refused(f"has {_shown(tree)}", f"a function of {', '.join(FUNCTIONS)}")
        given = []
        for argument in tree.args:
            if not isinstance(argument, ast.Constant) or isinstance(argument.value, bool):
                raise self._refused(f"gives {_shown(argument)} to {tree.func.id}", "a number or a text")
            given.append(argument.value)
        return self._asked(tree.func.id, given)

    def _asked(self, name: str, given: Sequence[Any]) -> _Node:
        known: Mapping[str, Any] = FUNCTIONS if given else NAMES
        if name not in known:
            if name in FUNCTIONS or name in NAMES:
                fitting = f"{name}(…), with what it needs" if name in FUNCTIONS else f"{name} alone"
                raise self._refused(f"has {name}", fitting)
            every = [*NAMES, *FUNCTIONS]
            raise self._refused(f"asks for {name}", f"one of {', '.join(every)}{did_you_mean(name, every)}")
        asked = known[name]
        try:
            check_asked(self._header, name, asked, given)
        except ValueError as error:
            raise self._refused(f"has {name}: {error}", "what this cache says of its examples") from None
        return _Node(type_of(asked, self._header), lambda examples: examples.get(name, *given))

    def _check_label(self, tree: ast.expr, others: Sequence[ast.expr]) -> None:
        """Raises ConfigError for a class that the cache does not have."""
        if not (isinstance(tree, ast.Name) and tree.id == "label"):
            return
        for other in others:
            if isinstance(other, ast.Constant) and isinstance(other.value, str):
                names = self._header.class_names
                if other.value not in names:
                    near = did_you_mean(other.value, names)
                    raise self._refused(f"asks for the label {other.value!r}", f"one of {', '.join(names[:12])}{near}")


def _constant(type_: Type, value: Any) -> _Node:
    return _Node(type_, lambda _: value)


def _reduced(both: np.ufunc, truths: Iterable[Any]) -> Any:
    return both.reduce(np.broadcast_arrays(*truths))


def _is_equality(op: ast.cmpop) -> bool:
    return isinstance(op, ast.Eq | ast.NotEq)


def _shown(tree: ast.AST) -> str:
    text = ast.unparse(tree)
    return text if len(text) <= 40 else f"{text[:37]}…"


def _bytes_of(path: str) -> bytes:
    """A list of numbers. Raises ConfigError where it cannot be read."""
    try:
        if not Path(path).is_file():
            raise ConfigError(f"got ids({path!r}), expected a file", missing_path=not Path(path).exists())
        with Path(path).open("rb") as file:
            data = file.read(MOST_IDS + 1)
    except (OSError, ValueError) as error:
        raise ConfigError(f"got ids({path!r}), which cannot be read: {one_line(error)}; expected a file") from None
    if len(data) > MOST_IDS:
        raise ConfigError(f"got ids({path!r}) of more than {MOST_IDS:,} bytes, expected a shorter list")
    return data


def _ranges_in(path: str, data: bytes) -> tuple[np.ndarray, np.ndarray]:
    """(firsts, lasts) of the numbers and ranges such as 5-9 in a file, between white space or commas.

    Raises ConfigError for anything else.
    """
    expected = "expected example numbers, or ranges such as 5-9"
    ranges: list[tuple[int, int]] = []
    for word in data.decode("utf-8", "replace").replace(",", " ").split():
        parts = word.split("-")
        if len(parts) > 2 or not all(part.isascii() and part.isdecimal() and len(part) < 18 for part in parts):
            raise ConfigError(f"got {word[:40]!r} in ids({path!r}), {expected}")
        ranges.append((int(parts[0]), int(parts[-1])))
    if not ranges:
        raise ConfigError(f"got no number in ids({path!r}), {expected}")
    firsts, lasts = np.array(sorted(ranges), np.int64).T
    return firsts, np.maximum.accumulate(lasts)


def _among(firsts: np.ndarray, lasts: np.ndarray) -> Callable[[Any], Any]:
    def among(values: Any) -> Any:
        place = np.searchsorted(firsts, values, side="right") - 1
        return (place >= 0) & (values <= lasts[place])

    return among
