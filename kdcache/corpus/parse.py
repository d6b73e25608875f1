"""Bytes of JSONL, CSV and text rows -> tables of one column.

JSONL goes through Python's json, line by line, about 120 MB/s (17 ms a unit, a hundredth of its tokenisation):
pyarrow 26's reader, given a schema, crashes the process where the first line is null; without one it takes dates for
timestamps and gives up where an unrelated column changes its type. CSV goes through pyarrow, a whole range at once,
and row by row only to find the row at fault.
"""

import difflib
import json
from collections.abc import Callable, Iterable

import numpy as np
import pyarrow as pa

from kdcache.errors import CorpusError

__all__ = ["missing_field", "parse_csv", "parse_jsonl", "parse_text"]

Where = Callable[[int], str]

JSON_TYPES = {
    dict: "an object",
    list: "an array",
    str: "a string",
    int: "a number",
    float: "a number",
    bool: "a boolean",
}


def missing_field(place: str, field: str, fields: Iterable[str], setting: str) -> CorpusError:
    names = list(fields)
    nearest = difflib.get_close_matches(field, names, n=1, cutoff=0.0)
    hint = f"; did you mean corpus.{setting}: {nearest[0]}?" if nearest else f"; set corpus.{setting}"
    listed = ", ".join(names[:20]) + (", …" if len(names) > 20 else "")
    return CorpusError(f"{place} has no field {field}, it has {listed or 'none'}{hint}")


def parse_jsonl(data: bytes, starts: np.ndarray, field: str, structured: bool, where: Where) -> pa.Table:
    """One string column. A structured field (a chat's messages) is kept as the JSON text of its value."""
    stops = [*starts[1:].tolist(), len(data)]
    values = [
        _json_value(data[start:stop], field, structured, row, where)
        for row, (start, stop) in enumerate(zip(starts.tolist(), stops, strict=True))
    ]
    return pa.table({field: pa.array(values, pa.large_string())})


def _json_value(line: bytes, field: str, structured: bool, row: int, where: Where) -> str | None:
    try:
        document = json.loads(line.decode("utf-8"))
    except UnicodeDecodeError as error:
        raise CorpusError(f"{where(row)} is not UTF-8: {error.reason} at byte {error.start} of the line") from None
    except (ValueError, RecursionError) as error:
        raise CorpusError(f"{where(row)} is not JSON: {error}; expected one JSON object a line") from None
    if not isinstance(document, dict):
        got = JSON_TYPES.get(type(document), "null")
        raise CorpusError(f"{where(row)} is {got}, expected a JSON object")
    if field not in document:
        raise missing_field(where(row), field, document, "messages_field" if structured else "text_field")
    value = document[field]
    if value is None or isinstance(value, str):
        text = value
    elif structured:
        text = json.dumps(value, ensure_ascii=False)
    else:
        raise CorpusError(f"{where(row)}: {field} is {JSON_TYPES[type(value)]}, expected a string")
    try:
        (text or "").encode("utf-8")
    except UnicodeEncodeError:
        raise CorpusError(f"{where(row)}: {field} holds half a surrogate pair, expected valid Unicode") from None
    return text


def parse_csv(data: bytes, starts: np.ndarray, names: tuple[str, ...], field: str, where: Where) -> pa.Table:
    """The field's column, as strings. Raises CorpusError for a row of another number of values than the header."""
    try:
        table = _read_csv(data, names, field)
        if len(table) == len(starts):
            return table
        fault = "quotes do not pair up"
    except pa.ArrowInvalid as error:
        fault = " ".join(str(error).split())
    stops = [*starts[1:].tolist(), len(data)]
    for row, (start, stop) in enumerate(zip(starts.tolist(), stops, strict=True)):
        widths: list[int] = []
        try:
            rows = len(_read_csv(data[start:stop], names, field, widths))
        except pa.ArrowInvalid as error:
            if widths:
                raise CorpusError(
                    f"{where(row)} has {widths[0]} values, expected {len(names)} ({', '.join(names)})"
                ) from None
            what = "is not UTF-8" if "UTF8" in str(error) else "is not CSV"
            raise CorpusError(f"{where(row)} {what}: {' '.join(str(error).split())}") from None
        if rows != 1:
            raise CorpusError(f"{where(row)}: quotes do not pair up, expected CSV with quotes doubled inside quotes")
    raise CorpusError(f"{where(0)} and the {len(starts) - 1} rows after it are not CSV: {fault}")


def _read_csv(data: bytes, names: tuple[str, ...], field: str, widths: list[int] | None = None) -> pa.Table:
    from pyarrow import csv as pa_csv

    def ragged(row: pa_csv.InvalidRow) -> str:
        if widths is not None:
            widths.append(row.actual_columns)
        return "error"

    return pa_csv.read_csv(
        pa.BufferReader(data),
        read_options=pa_csv.ReadOptions(use_threads=False, block_size=len(data) + 1, column_names=list(names)),
        parse_options=pa_csv.ParseOptions(newlines_in_values=True, invalid_row_handler=ragged),
        convert_options=pa_csv.ConvertOptions(
            include_columns=[field], column_types={field: pa.large_string()}, strings_can_be_null=False
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
            raise CorpusError(
                f"{where(row)} is not UTF-8: {error.reason} at byte {error.start} of the row; convert the file"
            ) from None
    return pa.table({"text": pa.array(rows, pa.large_string())})
