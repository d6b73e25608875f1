"""What a task reads of a corpus: columns by name, and the type that each kind comes in.

text   as the file has it; of JSONL large_string
json   as the file has it; of JSONL the JSON text of the value: a chat's messages are of no one Arrow type
label  string. Integers in decimal, floats that are whole numbers too, booleans as true and false; an empty string
       and NaN are null. Integers whose names are known (class_names) are these names
words  list<string>. Lists, or JSON text of lists (CSV has no others)
labels list<string>, of labels
integers list<int64>. Lists of integers or booleans, or JSON text of them
numbers list<double>. A number or a list of them, also as text; null, NaN and an empty text are null, and in a list NaN

A label or a list that a row lacks is null where the column is optional, and refused where it is required. Nulls of
text and json are left to the task.
"""

import json
import math
from collections.abc import Iterable, Mapping, Sequence
from typing import Any

import pyarrow as pa
import pyarrow.compute as pc

from kdcache.corpus.class_names import NO_CLASS
from kdcache.corpus.column import MULTI_LABEL, REGRESSION, Column, Where
from kdcache.errors import ConfigError, CorpusError, RowError, one_line
from kdcache.near import nearest

__all__ = [
    "Names",
    "check_columns",
    "conform",
    "integer_list",
    "is_text",
    "label",
    "lacks",
    "number_list",
    "word_list",
]

WORDS = pa.list_(pa.string())
NUMBERS = pa.list_(pa.float64())
INTEGERS = pa.list_(pa.int64())
Names = Mapping[str, str]
"""The name of each integer of a column of labels."""
EXPECTED = {
    "label": "a string, an integer or a boolean",
    "words": "a list of strings",
    "labels": "a list of strings or integers",
    "numbers": "a number or a list of numbers",
    "integers": "a list of integers",
}
JSON_TYPES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


def check_columns(columns: Sequence[Column], files: Iterable[tuple[str, tuple[str, ...] | None]]) -> None:
    """files: name and columns of each file, None where rows carry their own.

    Raises ConfigError for a name under two settings, CorpusError for a required column that a file lacks and for an
    optional one that all files lack.
    """
    settings: dict[str, str] = {}
    for column in columns:
        if column.name in settings:
            raise ConfigError(
                f"got {column.name} for both corpus.{settings[column.name]} and corpus.{column.setting}, "
                "expected two columns"
            )
        settings[column.name] = column.setting
    known = [(name, fields) for name, fields in files if fields is not None]
    for column in columns:
        lacking = [(name, fields) for name, fields in known if column.name not in fields]
        if lacking and (column.required or len(lacking) == len(known)):
            name, fields = lacking[0]
            raise CorpusError(f"{name} {lacks(column, fields)}")


def lacks(column: Column, fields: Iterable[str]) -> str:
    """What is wrong with a file or a row that has these fields and not the column."""
    names = list(fields)
    meant = nearest(column.name, names)
    hint = f"; did you mean corpus.{column.setting}: {meant}?" if meant else f"; set corpus.{column.setting}"
    if not column.required:
        hint += f"{' Without one' if meant else ', or'}{',' if meant else ''} leave corpus.{column.setting} out"
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return f"has no field {column.name}, it has {listed or 'none'}{hint}"


def label(value: object, column: Column, row: int, where: Where) -> str | None:
    """A label of JSON.

    Scores and lists are no bad rows that may be left out: they say that the column is of another task.
    """
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value).lower()
    if isinstance(value, float):
        if math.isnan(value):
            return None
        if value.is_integer():
            return str(int(value))
        raise CorpusError(f"{where(row)}: {column.name} is the number {value}; {REGRESSION}")
    if isinstance(value, list):
        raise CorpusError(f"{where(row)}: {column.name} is an array; {MULTI_LABEL}")
    raise _wrong(value, column, row, where)


def word_list(value: object, column: Column, row: int, where: Where) -> list[str] | None:
    """A list of JSON, or of the JSON text of one; empty text is null. Items of labels may be numbers."""
    words = _listed(value, EXPECTED["words"], column, row, where)
    if words is None:
        return None
    if column.kind == "labels":
        words = [item if isinstance(item, list) else label(item, column, row, where) for item in words]
    for number, word in enumerate(words, 1):
        if not isinstance(word, str):
            raise _wrong_item(JSON_TYPES[type(word)], number, column, row, where)
    check_unicode("".join(words), column, row, where)
    return words


def number_list(value: object, column: Column, row: int, where: Where) -> list[float] | None:
    """A number or a list of them, of JSON or as text; NaN stands for one that is missing, None for none at all."""
    if isinstance(value, str):
        text = value
        try:
            value = json.loads(text) if text else None
        except (ValueError, RecursionError):
            raise RowError(where, row, f": {column.name} is {text[:40]!r}, expected {EXPECTED['numbers']}") from None
    items = value if isinstance(value, list) else [] if value is None else [value]
    numbers = []
    for item in items:
        if item is None:
            numbers.append(math.nan)
        elif isinstance(item, bool) or not isinstance(item, int | float) or math.isinf(item):
            raise RowError(where, row, f": {column.name} has {item!r:.40}, expected {EXPECTED['numbers']}")
        else:
            numbers.append(float(item))
    return None if all(map(math.isnan, numbers)) else numbers


def integer_list(value: object, column: Column, row: int, where: Where) -> list[int] | None:
    """A list of integers or booleans, of JSON or as the JSON text of one; empty text is null."""
    items = _listed(value, EXPECTED["integers"], column, row, where)
    if items is None:
        return None
    for number, item in enumerate(items, 1):
        if not isinstance(item, int):
            raise _wrong_item(JSON_TYPES.get(type(item), str(item)), number, column, row, where)
        if not -(2**63) <= item < 2**63:
            raise _wrong_item(f"a number of {len(str(item))} digits", number, column, row, where)
    return [int(item) for item in items]


def _listed(value: object, expected: str, column: Column, row: int, where: Where) -> list[Any] | None:
    """A list of JSON, or of the JSON text of one; empty text is null."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value else None
        except (ValueError, RecursionError):
            raise RowError(where, row, f": {column.name} is text that is not JSON, expected {expected}") from None
    if value is not None and not isinstance(value, list):
        raise _wrong(value, column, row, where)
    return value


def check_unicode(text: str, column: Column, row: int, where: Where) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise RowError(where, row, f": {column.name} holds half a surrogate pair, expected valid Unicode") from None


def conform(
    table: pa.Table, columns: Sequence[Column], where: Where, names: Mapping[str, Names] | None = None
) -> pa.Table:
    """The columns in their order and types; one that is not there is null in every row.

    names: of the columns of labels whose integers have some.
    """
    return pa.table({column.name: _conformed(table, column, where, names or {}) for column in columns})


def _conformed(table: pa.Table, column: Column, where: Where, names: Mapping[str, Names]) -> pa.ChunkedArray:
    here = column.name in table.column_names
    values = table[column.name] if here else pa.chunked_array([pa.nulls(len(table))])
    if column.kind not in EXPECTED:
        return values
    if column.kind == "numbers":
        values = _numbers(values, column, where)
    elif column.kind == "integers":
        values = _integers(values, column, where)
    else:
        values = _labels(values, column, where) if column.kind == "label" else _words(values, column, where)
    if column.kind in ("label", "labels") and column.name in names:
        values = _named(values, names[column.name], column, where)
    if column.required and values.null_count:
        row = values.is_null().to_pylist().index(True)
        raise RowError(where, row, f": {column.name} is null, expected {EXPECTED[column.kind]}; leave such rows out")
    return values


def _named(values: pa.ChunkedArray, names: Names, column: Column, where: Where) -> pa.ChunkedArray:
    """Labels or lists of them with integers replaced by their names. An integer of no class is null in a label."""

    def name(value: str | None, row: int) -> str | None:
        if value is None or value in names:
            return None if value is None else names[value]
        if value in known:
            return value
        if column.kind == "label" and value == NO_CLASS:
            return None
        raise RowError(
            where,
            row,
            f": {column.name} has {value}, expected one of the integers that have a name: "
            f"{', '.join(f'{number} ({name})' for number, name in [*names.items()][:12])}; see corpus.label_names",
        )

    known, rows = {*names.values()}, values.to_pylist()
    if column.kind == "label":
        return pa.chunked_array([pa.array([name(value, row) for row, value in enumerate(rows)], pa.string())])
    lists = [None if items is None else [name(item, row) for item in items] for row, items in enumerate(rows)]
    return pa.chunked_array([pa.array(lists, WORDS)])


def _whole(values: pa.ChunkedArray, column: Column, where: Where) -> pa.ChunkedArray:
    """Floats as integers, NaN as null."""
    values = values.cast(pa.float64())
    values = pc.if_else(pc.is_nan(values), pa.scalar(None, pa.float64()), values)
    broken = pc.fill_null(pc.not_equal(pc.floor(values), values), False)
    if pc.any(broken).as_py():
        row = broken.to_pylist().index(True)
        raise CorpusError(f"{where(row)}: {column.name} is the number {values[row].as_py()}; {REGRESSION}")
    return values.cast(pa.int64())


def _labels(values: pa.ChunkedArray, column: Column, where: Where) -> pa.ChunkedArray:
    if pa.types.is_floating(values.type):
        values = _whole(values, column, where)
    type = values.type
    if _is_list(type, numbers=True):
        raise CorpusError(f"{where(0)}: {column.name} is {type}; {MULTI_LABEL}")
    if not (is_text(type) or pa.types.is_integer(type) or pa.types.is_boolean(type) or pa.types.is_null(type)):
        raise CorpusError(f"{where(0)}: {column.name} is {type}, expected {EXPECTED['label']}")
    labels = values.cast(pa.string())
    return pc.if_else(pc.equal(labels, ""), pa.scalar(None, pa.string()), labels)


def _words(values: pa.ChunkedArray, column: Column, where: Where) -> pa.ChunkedArray:
    type = values.type
    if is_text(type):
        rows = [word_list(text, column, row, where) for row, text in enumerate(values.to_pylist())]
        return pa.chunked_array([pa.array(rows, WORDS)])
    if column.kind == "labels" and _is_list(type, numbers=True) and not _is_list(type):
        rows = [word_list(row_of, column, row, where) for row, row_of in enumerate(values.to_pylist())]
        return pa.chunked_array([pa.array(rows, WORDS)])
    if not (pa.types.is_null(type) or _is_list(type)):
        raise CorpusError(f"{where(0)}: {column.name} is {type}, expected {EXPECTED['words']}")
    lists = values.cast(WORDS)
    if pc.list_flatten(lists).null_count:
        row, words = next((row, words) for row, words in enumerate(lists.to_pylist()) if words and None in words)
        raise _wrong_item("null", words.index(None) + 1, column, row, where)
    return lists


def _numbers(values: pa.ChunkedArray, column: Column, where: Where) -> pa.ChunkedArray:
    rows = [number_list(value, column, row, where) for row, value in enumerate(values.to_pylist())]
    return pa.chunked_array([pa.array(rows, NUMBERS)])


def _integers(values: pa.ChunkedArray, column: Column, where: Where) -> pa.ChunkedArray:
    type = values.type
    if is_text(type):
        rows = [integer_list(text, column, row, where) for row, text in enumerate(values.to_pylist())]
        return pa.chunked_array([pa.array(rows, INTEGERS)])
    if pa.types.is_null(type):
        return values.cast(INTEGERS)
    if not _is_list(type, numbers=True) or pa.types.is_floating(type.value_type) or is_text(type.value_type):
        raise CorpusError(f"{where(0)}: {column.name} is {type}, expected {EXPECTED['integers']}")
    if pc.list_flatten(values).null_count:
        row, items = next((row, items) for row, items in enumerate(values.to_pylist()) if items and None in items)
        raise _wrong_item("null", items.index(None) + 1, column, row, where)
    try:
        return values.cast(INTEGERS)
    except pa.ArrowInvalid as error:
        raise CorpusError(f"{where(0)}: {column.name} does not fit 64 bits: {one_line(error)}") from None


def is_text(type: pa.DataType) -> bool:
    return bool(pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type))


def _is_list(type: pa.DataType, numbers: bool = False) -> bool:
    """Whether it is a list of text, or also of numbers."""
    if not (pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type)):
        return False
    item = type.value_type
    item = item.value_type if pa.types.is_dictionary(item) else item
    is_number = pa.types.is_integer(item) or pa.types.is_floating(item) or pa.types.is_boolean(item)
    return is_text(item) or bool(pa.types.is_null(item)) or bool(numbers and is_number)


def _wrong(value: object, column: Column, row: int, where: Where) -> RowError:
    got = f"the number {value}" if isinstance(value, float) else JSON_TYPES[type(value)]
    return RowError(where, row, f": {column.name} is {got}, expected {EXPECTED[column.kind]}")


def _wrong_item(got: str, number: int, column: Column, row: int, where: Where) -> RowError:
    expected = EXPECTED[column.kind].removeprefix("a list of ")
    return RowError(where, row, f": {column.name} has {got} as item {number}, expected {expected}")
