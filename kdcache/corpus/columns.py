"""What a task reads of a corpus: columns by name, and the type that each kind comes in.

text   as the file has it; of JSONL large_string
json   as the file has it; of JSONL the JSON text of the value: a chat's messages are of no one Arrow type
label  string. Integers in decimal, booleans as true and false; an empty string is null
words  list<string>. Lists, or JSON text of lists (CSV has no others)

A label or a list that a row lacks is null where the column is optional, and refused where it is required. Nulls of
text and json are left to the task.
"""

import difflib
import json
from collections.abc import Callable, Iterable, Sequence
from dataclasses import dataclass
from typing import Literal

import pyarrow as pa
import pyarrow.compute as pc

from kdcache.errors import ConfigError, CorpusError

__all__ = ["Column", "Where", "check_columns", "conform", "label", "missing_field", "word_list"]

Where = Callable[[int], str]
WORDS = pa.list_(pa.string())
EXPECTED = {"label": "a string, an integer or a boolean", "words": "a list of strings"}
JSON_TYPES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
    type(None): "null",
}


@dataclass(frozen=True)
class Column:
    """name: in the files. setting: the key below corpus.* that names it, for messages. required: whether every file
    and row has it."""

    name: str
    setting: str
    required: bool = True
    kind: Literal["text", "json", "label", "words"] = "text"


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
            raise missing_field(name, column, fields)


def missing_field(place: str, column: Column, fields: Iterable[str]) -> CorpusError:
    names = list(fields)
    nearest = difflib.get_close_matches(column.name, names, n=1, cutoff=0.0)
    hint = f"; did you mean corpus.{column.setting}: {nearest[0]}?" if nearest else f"; set corpus.{column.setting}"
    if not column.required:
        hint += f" Without one, leave corpus.{column.setting} out" if nearest else " or leave it out"
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return CorpusError(f"{place} has no field {column.name}, it has {listed or 'none'}{hint}")


def label(value: object, column: Column, row: int, where: Where) -> str | None:
    """A label of JSON."""
    if value is None or isinstance(value, str):
        return value
    if isinstance(value, int):
        return str(value).lower()
    raise _wrong(value, column, row, where)


def word_list(value: object, column: Column, row: int, where: Where) -> list[str] | None:
    """A list of JSON, or of the JSON text of one; empty text is null."""
    if isinstance(value, str):
        try:
            value = json.loads(value) if value else None
        except (ValueError, RecursionError):
            raise CorpusError(
                f"{where(row)}: {column.name} is text that is not JSON, expected {EXPECTED['words']}"
            ) from None
    if value is None:
        return None
    if not isinstance(value, list):
        raise _wrong(value, column, row, where)
    for number, word in enumerate(value, 1):
        if not isinstance(word, str):
            raise _wrong_item(JSON_TYPES[type(word)], number, column, row, where)
    check_unicode("".join(value), column, row, where)
    return value


def check_unicode(text: str, column: Column, row: int, where: Where) -> None:
    try:
        text.encode("utf-8")
    except UnicodeEncodeError:
        raise CorpusError(f"{where(row)}: {column.name} holds half a surrogate pair, expected valid Unicode") from None


def conform(table: pa.Table, columns: Sequence[Column], where: Where) -> pa.Table:
    """The columns in their order and types; one that is not there is null in every row."""
    return pa.table({column.name: _conformed(table, column, where) for column in columns})


def _conformed(table: pa.Table, column: Column, where: Where) -> pa.ChunkedArray:
    here = column.name in table.column_names
    values = table[column.name] if here else pa.chunked_array([pa.nulls(len(table))])
    if column.kind not in EXPECTED:
        return values
    values = _labels(values, column, where) if column.kind == "label" else _words(values, column, where)
    if column.required and values.null_count:
        row = values.is_null().to_pylist().index(True)
        raise CorpusError(f"{where(row)}: {column.name} is null, expected {EXPECTED[column.kind]}; leave such rows out")
    return values


def _labels(values: pa.ChunkedArray, column: Column, where: Where) -> pa.ChunkedArray:
    type = values.type
    if not (_is_text(type) or pa.types.is_integer(type) or pa.types.is_boolean(type) or pa.types.is_null(type)):
        raise CorpusError(f"{where(0)}: {column.name} is {type}, expected {EXPECTED['label']}")
    labels = values.cast(pa.string())
    return pc.if_else(pc.equal(labels, ""), pa.scalar(None, pa.string()), labels)


def _words(values: pa.ChunkedArray, column: Column, where: Where) -> pa.ChunkedArray:
    type = values.type
    if _is_text(type):
        rows = [word_list(text, column, row, where) for row, text in enumerate(values.to_pylist())]
        return pa.chunked_array([pa.array(rows, WORDS)])
    if not (pa.types.is_null(type) or _is_list(type)):
        raise CorpusError(f"{where(0)}: {column.name} is {type}, expected {EXPECTED['words']}")
    lists = values.cast(WORDS)
    if pc.list_flatten(lists).null_count:
        row, words = next((row, words) for row, words in enumerate(lists.to_pylist()) if words and None in words)
        raise _wrong_item("null", words.index(None) + 1, column, row, where)
    return lists


def _is_text(type: pa.DataType) -> bool:
    return bool(pa.types.is_string(type) or pa.types.is_large_string(type) or pa.types.is_string_view(type))


def _is_list(type: pa.DataType) -> bool:
    if not (pa.types.is_list(type) or pa.types.is_large_list(type) or pa.types.is_fixed_size_list(type)):
        return False
    item = type.value_type
    return _is_text(item.value_type if pa.types.is_dictionary(item) else item) or bool(pa.types.is_null(item))


def _wrong(value: object, column: Column, row: int, where: Where) -> CorpusError:
    got = f"the number {value}" if isinstance(value, float) else JSON_TYPES[type(value)]
    return CorpusError(f"{where(row)}: {column.name} is {got}, expected {EXPECTED[column.kind]}")


def _wrong_item(got: str, number: int, column: Column, row: int, where: Where) -> CorpusError:
    return CorpusError(f"{where(row)}: {column.name} has {got} as item {number}, expected strings")
