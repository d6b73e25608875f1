import csv
import io
import json
from collections.abc import Callable, Sequence

import pyarrow as pa
import pyarrow.parquet as pq
import pytest


def jsonl(texts: Sequence[str]) -> bytes:
    rows = ({"id": i, "text": text, "meta": {"n": [i]} if i % 2 else i} for i, text in enumerate(texts))
    return "".join(json.dumps(row, ensure_ascii=i % 2 == 0) + "\n" for i, row in enumerate(rows)).encode()


def csv_file(texts: Sequence[str], end: str = "\n") -> bytes:
    out = io.StringIO(newline="")
    writer = csv.writer(out, lineterminator=end)
    writer.writerow(["id", "text"])
    quoted = csv.writer(out, lineterminator=end, quoting=csv.QUOTE_ALL)
    for row, text in enumerate(texts):
        (quoted if "\r" in text else writer).writerow([row, text])
    return out.getvalue().encode()


def table(texts: Sequence[str]) -> pa.Table:
    return pa.table({"id": range(len(texts)), "text": pa.array(texts, pa.string())})


def parquet(texts: Sequence[str], group: int = 3) -> bytes:
    out = io.BytesIO()
    pq.write_table(table(texts), out, row_group_size=group, compression="none", use_dictionary=False)
    return out.getvalue()


def arrow_file(texts: Sequence[str], batch: int = 3) -> bytes:
    return _arrow(pa.ipc.new_file, table(texts), batch)


def arrow_stream(texts: Sequence[str], batch: int = 3) -> bytes:
    return _arrow(pa.ipc.new_stream, table(texts), batch)


def arrow_dictionary(texts: Sequence[str], batch: int = 3) -> bytes:
    plain = table(texts)
    return _arrow(pa.ipc.new_stream, plain.set_column(1, "text", plain["text"].dictionary_encode()), batch)


def _arrow(open_writer: Callable, rows: pa.Table, batch: int) -> bytes:
    out = io.BytesIO()
    with open_writer(out, rows.schema) as writer:
        writer.write_table(rows, max_chunksize=batch)
    return out.getvalue()


WRITERS = {
    "jsonl": ("jsonl", "jsonl", jsonl),
    "csv": ("csv", "csv", csv_file),
    "csv-crlf": ("csv", "csv", lambda texts: csv_file(texts, "\r\n")),
    "parquet": ("parquet", "parquet", parquet),
    "arrow-file": ("arrow", "arrow", arrow_file),
    "arrow-stream": ("arrow", "arrows", arrow_stream),
    "arrow-dictionary": ("arrow", "arrows", arrow_dictionary),
}


@pytest.fixture(params=WRITERS)
def written(request: pytest.FixtureRequest) -> tuple[str, str, Callable[[Sequence[str]], bytes]]:
    """(format, suffix, texts -> bytes of a file with the texts as its rows)."""
    return WRITERS[request.param]


@pytest.fixture(params=["parquet", "arrow-file", "arrow-stream", "arrow-dictionary"])
def written_in_columns(request: pytest.FixtureRequest) -> tuple[str, str, Callable[[Sequence[str]], bytes]]:
    return WRITERS[request.param]


@pytest.fixture(params=["jsonl", "csv", "parquet", "arrow-stream"])
def written_briefly(request: pytest.FixtureRequest) -> tuple[str, str, Callable[[Sequence[str]], bytes]]:
    return WRITERS[request.param]
