"""A forger: edits a cache and then recomputes every digest, size and total that is known from outside a shard."""

import hashlib
import io
import json
import re
import zipfile
from collections.abc import Callable
from functools import reduce
from itertools import pairwise
from operator import add
from pathlib import Path
from typing import Any

import numpy as np

from kdcache.store.arrow_message import batch_places
from kdcache.store.table import DTYPES, Table, Texts, encode_table
from kdcache.tasks.score import Score

__all__ = [
    "COUNTS",
    "as_json",
    "digest",
    "forge",
    "forge_table",
    "manifest_of",
    "table_of",
    "write_table",
    "write_values",
]

COUNTS = ("examples", "tokens", "documents", "positions", "entries", "bytes")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def as_json(values: Any) -> bytes:
    """As FORMAT.md has it."""
    return (json.dumps(values, sort_keys=True, indent=1) + "\n").encode()


def manifest_of(folder: Path) -> dict[str, Any]:
    """cache.json, with the commit records as its "shards"."""
    values = json.loads((folder / "cache.json").read_bytes())
    return values | {"shards": [json.loads(path.read_bytes()) for path in sorted(folder.glob("shards/*/*.json"))]}


def forge(folder: Path, change: Callable[[dict[str, Any]], object] = lambda values: None) -> None:
    """Change what `manifest_of` gives, and give the files of a cache that stand beside its shards what follows."""
    values = manifest_of(folder)
    change(values)
    header = values["header"]
    if "basis" in header:
        data = next(folder.glob("basis-*")).read_bytes()
        header["basis"] |= {"bytes": len(data), "sha256": digest(data)}
    for shard in values["shards"]:
        data = (folder / shard["file"]).read_bytes()
        shard |= {"bytes": len(data), "sha256": digest(data), "header_sha256": digest(as_json(header))}
        shard["blocks"] = _placed(shard["blocks"], data)
    values["totals"] |= {name: sum(shard[name] for shard in values["shards"]) for name in COUNTS}
    values["totals"]["notes"] = {}
    for shard in values["shards"]:
        for note, count in shard["notes"].items():
            values["totals"]["notes"][note] = values["totals"]["notes"].get(note, 0) + count
    scores = [Score(shard["score"]) for shard in values["shards"] if "score" in shard]
    if scores:
        values["totals"]["score"] = reduce(add, scores).root
    (folder / "header.json").write_bytes(as_json(header))
    write_values(folder, values)


def table_of(records: list[dict[str, Any]]) -> Table:
    """That of some commit records."""
    values = [
        {**record, "record_bytes": len(as_json(record)), "record_sha256": digest(as_json(record))} for record in records
    ]
    plain = {
        name: [bytes.fromhex(v[name] or "0" * 64) if "sha256" in name else v[name] for v in values] for name in DTYPES
    }
    besides = [{name: v[name] for name in ("notes", "skipped", "made_under", "taken") if v.get(name)} for v in values]
    texts = [json.dumps(one, sort_keys=True, separators=(",", ":")).encode() if one else b"" for one in besides]
    return Table({name: np.array(column, DTYPES[name]) for name, column in plain.items()}, Texts.of(texts))


def write_values(folder: Path, values: dict[str, Any]) -> None:
    """What `manifest_of` gives, as it stands: the commit records, their table and cache.json."""
    for shard in values["shards"]:
        (folder / f"shards/000/{shard['unit']:06d}.json").write_bytes(as_json(shard))
    write_table(folder, values, encode_table(table_of(values["shards"])))


def write_table(folder: Path, values: dict[str, Any], table: bytes) -> None:
    """cache.json, and any bytes as its table."""
    values["table"] = {"file": "shards.arrow", "bytes": len(table), "sha256": digest(table)}
    values = {name: value for name, value in values.items() if name != "shards"}
    (folder / "shards.arrow").write_bytes(table)
    (folder / "cache.json").write_bytes(as_json(values))


def _placed(lines: list[str], data: bytes) -> list[str]:
    """The lines of blocks, with the places and digests that they have in a file; the old places where it has none."""
    parts = [line.split(" ") for line in lines]
    places = _found(data)
    if len(places) != len(parts):
        places = [(int(start), int(size)) for start, size, *_ in parts]
    places = [(min(a, len(data)), min(n, max(len(data) - a, 0))) for a, n in places]
    return [
        " ".join([str(start), str(size), digest(data[start : start + size]), *part[3:]])
        for part, (start, size) in zip(parts, places, strict=True)
    ]


def _found(data: bytes) -> list[tuple[int, int]]:
    """Where the blocks of a file seem to lie."""
    try:
        if data[:2] == b"PK":
            with zipfile.ZipFile(io.BytesIO(data)) as archive:
                groups = {info.filename: info.header_offset for info in archive.infolist()}
                starts = sorted(at for name, at in groups.items() if re.fullmatch(r"\d+/zarr\.json", name))
                return [(a, b - a) for a, b in pairwise([*starts, archive.start_dir])]
        if data[:4] == b"PAR1":
            starts = [match.start() for match in re.finditer(rb"(?s)....(?=\{\"sizes\": \{)", data)]
            return [(a, b - a) for a, b in pairwise([*starts, len(data) - 8 - int.from_bytes(data[-8:-4], "little")])]
        return batch_places(memoryview(data))
    except (zipfile.BadZipFile, ValueError, LookupError, OverflowError, NotImplementedError):
        return []


def forge_table(folder: Path, change: Callable[[dict[str, np.ndarray]], object]) -> None:
    """Change the columns of the table alone, and give cache.json its digest and the totals that follow."""
    values = manifest_of(folder)
    table = table_of(values["shards"])
    change(table.columns)
    sums = {name: sum(table[name].tolist()) for name in COUNTS}
    values["totals"] |= {name: sums[name] for name in COUNTS} | {"shards": len(table)}
    write_table(folder, values, encode_table(table))
