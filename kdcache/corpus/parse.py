"""Bytes of JSONL, CSV and text rows -> tables of the wanted columns.

JSONL goes through Python's json, line by line, about 95 MB/s (22 ms per unit, a hundredth of its tokenisation):
pyarrow 26's reader, given a schema, crashes the process where the first line is null; without one it takes dates for
timestamps and gives up where an unrelated column changes its type. CSV goes through pyarrow, a whole range at once,
and row by row only to find the row at fault.
"""

import json
from collections.abc import Sequence
from contextlib import suppress
from typing import Any

import numpy as np
import pyarrow as pa

from kdcache.corpus.column import Column, Where
from kdcache.corpus.columns import (
    INTEGERS,
    JSON_TYPES,
    NUMBERS,
    WORDS,
    check_unicode,
    integer_list,
    label,
    lacks,
    number_list,
    word_list,
)
from kdcache.corpus.layout import Layout
from kdcache.errors import CorpusError, RowError, one_line

__all__ = ["parse_csv", "parse_jsonl", "parse_text"]

TYPES = {
    "text": pa.large_string(),
    "json": pa.large_string(),
    "label": pa.string(),
    "words": WORDS,
    "labels": WORDS,
    "numbers": NUMBERS,
    "integers": INTEGERS,
}


def parse_jsonl(data: bytes, starts: np.ndarray, columns: Sequence[Column], where: Where) -> pa.Table:
    """The columns of each line's object."""
    stops = [*starts[1:].tolist(), len(data)]
    rows = []
    for row, (start, stop) in enumerate(zip(starts.tolist(), stops, strict=True)):
        document = _document(data[start:stop], row, where)
        rows.append([_json_value(document, column, row, where) for column in columns])
    found = zip(columns, zip(*rows, strict=True), strict=True)
    return pa.table({column.name: pa.array(values, TYPES[column.kind]) for column, values in found})


def _document(line: bytes, row: int, where: Where) -> dict[str, Any]:
    try:
        document = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise RowError(where, row, f" is not UTF-8: {error.reason} at byte {error.start} of the line") from None
    except (ValueError, RecursionError) as error:
        raise RowError(where, row, f" is not JSON: {error}; expected one JSON object per line") from None
    if not isinstance(document, dict):
        raise RowError(where, row, f" is {JSON_TYPES[type(document)]}, expected a JSON object")
    return document


def _json_value(document: dict[str, Any], column: Column, row: int, where: Where) -> Any:
    if column.required and column.name not in document:
        raise RowError(where, row, f" {lacks(column, document)}")
    value = document.get(column.name)
    if column.kind in ("words", "labels"):
        return word_list(value, column, row, where)
    if column.kind == "numbers":
        return number_list(value, column, row, where)
    if column.kind == "integers":
        return integer_list(value, column, row, where)
    if column.kind == "label":
        text = label(value, column, row, where)
    elif value is None or isinstance(value, str):
        text = value
    elif column.kind == "json":
        text = json.dumps(value, ensure_ascii=False)
    else:
        raise RowError(where, row, f": {column.name} is {JSON_TYPES[type(value)]}, expected a string")
    check_unicode(text or "", column, row, where)
    return text


def parse_csv(
    data: bytes,
    starts: np.ndarray,
    layout: Layout,
    names: tuple[str, ...],
    columns: Sequence[Column],
    where: Where,
) -> pa.Table:
    """Those of the columns that the file has, as strings. Raises CorpusError for a row of another number of values
    than the header."""
    fields = [column.name for column in columns if column.name in names]
    try:
        table = _read_csv(data, layout, names, fields)
        if len(table) == len(starts):
            return table
        fault = "quotes do not pair up"
    except pa.ArrowInvalid as error:
        fault = one_line(error)
    stops = [*starts[1:].tolist(), len(data)]
    for row, (start, stop) in enumerate(zip(starts.tolist(), stops, strict=True)):
        try:
            rows = len(_read_csv(data[start:stop], layout, names, fields))
        except pa.ArrowInvalid as error:
            if widths := _widths(data[start:stop], layout, names, fields):
                expected = f"expected {len(names)} ({', '.join(names)})"
                raise RowError(where, row, f" has {widths[0]} values, {expected}") from None
            what = "is not UTF-8" if "UTF8" in str(error) else "is not CSV"
            raise RowError(where, row, f" {what}: {one_line(error)}") from None
        if rows != 1:
            raise RowError(
                where,
                row,
                ": quotes do not pair up, expected CSV with quotes doubled inside quotes; or set corpus.quotes: false",
                settings=["corpus.quotes: false"],
            )
    raise CorpusError(f"{where(0)} and the {len(starts) - 1} rows after it are not CSV: {fault}")


def _widths(row: bytes, layout: Layout, names: tuple[str, ...], fields: list[str]) -> list[int]:
    """How many values a row has that has another number of them than the header; none where it is not UTF-8.

    pyarrow decodes such a row for whoever asks, and prints a traceback where that fails.
    """
    found: list[int] = []
    with suppress(pa.ArrowInvalid, UnicodeDecodeError):
        row.decode("utf-8")
        _read_csv(row, layout, names, fields, found)
    return found


def _read_csv(
    data: bytes, layout: Layout, names: tuple[str, ...], fields: list[str], widths: list[int] | None = None
) -> pa.Table:
    from pyarrow import csv as pa_csv

    def ragged(row: pa_csv.InvalidRow) -> str:
        assert widths is not None
        widths.append(row.actual_columns)
        return "error"

    return pa_csv.read_csv(
        pa.BufferReader(data),
        read_options=pa_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=list(names)),
        parse_options=pa_csv.ParseOptions(
            delimiter=layout.delimiter,
            quote_char='"' if layout.quotes else False,
            newlines_in_values=layout.quotes,
            invalid_row_handler=None if widths is None else ragged,
        ),
        convert_options=pa_csv.ConvertOptions(
            include_columns=fields, column_types=dict.fromkeys(fields, pa.large_string()), strings_can_be_null=False
        ),
    )


def parse_text(data: bytes, starts: np.ndarray, where: Where) -> pa.Table:
    """A `text` column with the rows as they are, line ends included."""
    stops = [*starts[1:].tolist(), len(data)]
    rows = []
    for row, (start, stop) in enumerate(zip(starts.tolist(), stops, strict=True)):
        try:
            rows.append(data[start:stop].decode("utf-8"))
        except UnicodeDecodeError as error:
            raise RowError(
                where, row, f" is not UTF-8: {error.reason} at byte {error.start} of the row; convert the file"
            ) from None
    return pa.table({"text": pa.array(rows, pa.large_string())})
