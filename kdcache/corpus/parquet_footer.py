"""What the footer of a Parquet file says, read by another process: pyarrow 26 ends the process where the histograms of
a column's levels do not fit its schema (an uncaught C++ exception), and no Python code can hold that.

The file's last bytes, which are the footer, go to one child through a pipe, and come back as JSON: numbers and names.
The child starts with the first file (0.5 s), reads about 1,000 footers a second, and ends with this process. Where it
dies, the file is refused in one line and the next one gets another child.
"""

import atexit
import contextlib
import json
import os
import select
import struct
import subprocess
import sys
import threading
from typing import Any, BinaryIO

__all__ = ["FooterError", "read_footer"]

MAGIC = b"PAR1"
LONGEST = 512 << 20
SECONDS = 120.0
_LENGTH = struct.Struct("<q")
_lock = threading.Lock()
_children: "dict[int, subprocess.Popen[bytes]]" = {}
"""By the process that started it: a fork has none yet."""


class FooterError(Exception):
    """What is wrong with a footer, to stand behind the file's name."""


def read_footer(stream: BinaryIO, size: int) -> dict[str, Any]:
    """The facts of a Parquet file.

    Args:
        stream: the file, which can be sought.
        size: its bytes.

    Returns:
        rows: of the file. groups: the rows of each row group. fields: names of the columns. column_bytes: decoded
        bytes of each. metadata: the value of "huggingface" in the schema's metadata, or None.

    Raises:
        FooterError: it has none, or one that cannot be.
    """
    if size < 12:
        raise FooterError(f"it has {size} bytes, expected a footer")
    stream.seek(size - 8)
    length, magic = struct.unpack("<I4s", stream.read(8))
    if magic != MAGIC or not 0 < length <= min(size - 12, LONGEST):
        raise FooterError("it has no footer that fits in it, and PAR1 at its end")
    stream.seek(size - 8 - length)
    facts = _asked(MAGIC + stream.read(length + 8))
    if "error" in facts:
        raise FooterError(facts["error"])
    groups = facts["groups"]
    if any(rows < 0 for rows in groups) or sum(groups) != facts["rows"]:
        raise FooterError(f"its row groups have {sum(groups)} rows, expected the {facts['rows']} of the file")
    return facts


def _asked(footer: bytes) -> dict[str, Any]:
    with _lock:
        child = _running()
        assert child.stdin is not None
        assert child.stdout is not None
        try:
            child.stdin.write(_LENGTH.pack(len(footer)) + footer)
            child.stdin.flush()
            if not select.select([child.stdout], [], [], SECONDS)[0]:
                raise FooterError(f"its footer is not read in {SECONDS:.0f} seconds")
            (length,) = _LENGTH.unpack(child.stdout.read(_LENGTH.size))
            found: dict[str, Any] = json.loads(child.stdout.read(length))
        except (OSError, struct.error, ValueError):
            _end(child)
            raise FooterError("pyarrow cannot read its footer, and ends the process that tries") from None
        except BaseException:
            _end(child)
            raise
        return found


def _running() -> "subprocess.Popen[bytes]":
    child = _children.get(os.getpid())
    if child is None or child.poll() is not None:
        child = _children[os.getpid()] = subprocess.Popen(
            [sys.executable, "-m", __name__],
            stdin=subprocess.PIPE,
            stdout=subprocess.PIPE,
            stderr=subprocess.DEVNULL,
            env=os.environ | {"PYTHONPATH": os.pathsep.join(sys.path)},
        )
        atexit.register(_end, child)
    return child


def _end(child: "subprocess.Popen[bytes]") -> None:
    if child not in _children.values() or _children.get(os.getpid()) is not child:
        return
    del _children[os.getpid()]
    with contextlib.suppress(OSError):
        child.kill()
        child.communicate()


def _facts(footer: bytes) -> dict[str, Any]:
    import pyarrow as pa
    from pyarrow import parquet

    try:
        metadata = parquet.read_metadata(pa.BufferReader(footer))
        schema = metadata.schema.to_arrow_schema()
        fields = [*schema.names]
        groups = [metadata.row_group(group) for group in range(metadata.num_row_groups)]
        column_bytes = dict.fromkeys(fields, 0)
        for group in groups:
            for leaf in range(group.num_columns):
                column = group.column(leaf)
                name = next((name for name in fields if f"{column.path_in_schema}.".startswith(f"{name}.")), fields[0])
                column_bytes[name] += max(column.total_uncompressed_size, 0)
        named = (schema.metadata or {}).get(b"huggingface")
        return {
            "rows": metadata.num_rows,
            "groups": [group.num_rows for group in groups],
            "fields": fields,
            "column_bytes": column_bytes,
            "metadata": None if named is None else named.decode("utf-8", "replace"),
        }
    except Exception as error:  # pyarrow raises many classes for a broken file
        return {"error": " ".join(str(error).split())[:500] or type(error).__name__}


def _serve() -> None:
    """Answer until the parent is gone."""
    while len(head := sys.stdin.buffer.read(_LENGTH.size)) == _LENGTH.size:
        answer = json.dumps(_facts(sys.stdin.buffer.read(_LENGTH.unpack(head)[0]))).encode()
        sys.stdout.buffer.write(_LENGTH.pack(len(answer)) + answer)
        sys.stdout.buffer.flush()


if __name__ == "__main__":
    _serve()
