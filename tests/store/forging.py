"""A forger: edits a cache and then recomputes every digest, size and total that is known from outside a shard."""

import hashlib
import json
from collections.abc import Callable
from functools import reduce
from operator import add
from pathlib import Path
from typing import Any

from kdcache.tasks.score import Score

__all__ = ["COUNTS", "as_json", "digest", "forge", "manifest_of"]

COUNTS = ("examples", "tokens", "documents", "positions", "entries", "bytes")


def digest(data: bytes) -> str:
    return hashlib.sha256(data).hexdigest()


def as_json(values: Any) -> bytes:
    """As FORMAT.md has it."""
    return (json.dumps(values, sort_keys=True, indent=1) + "\n").encode()


def manifest_of(folder: Path) -> dict[str, Any]:
    return json.loads((folder / "cache.json").read_bytes())


def forge(folder: Path, change: Callable[[dict[str, Any]], object] = lambda values: None) -> None:
    """Change cache.json, and give everything else in it, header.json and the commit records the digests that follow."""
    values = manifest_of(folder)
    change(values)
    header = values["header"]
    if "basis" in header:
        data = next(folder.glob("basis-*")).read_bytes()
        header["basis"] |= {"bytes": len(data), "sha256": digest(data)}
    for shard in values["shards"]:
        data = (folder / shard["file"]).read_bytes()
        shard |= {"bytes": len(data), "sha256": digest(data), "header_sha256": digest(as_json(header))}
        shard["blocks"] = [_placed(line, data) for line in shard["blocks"]]
        (folder / f"shards/000/{shard['unit']:06d}.json").write_bytes(as_json(shard))
    values["totals"] |= {name: sum(shard[name] for shard in values["shards"]) for name in COUNTS}
    values["totals"]["notes"] = {}
    for shard in values["shards"]:
        for note, count in shard["notes"].items():
            values["totals"]["notes"][note] = values["totals"]["notes"].get(note, 0) + count
    scores = [Score(shard["score"]) for shard in values["shards"] if "score" in shard]
    if scores:
        values["totals"]["score"] = reduce(add, scores).root
    (folder / "header.json").write_bytes(as_json(header))
    (folder / "cache.json").write_bytes(as_json(values))


def _placed(line: str, data: bytes) -> str:
    """The line of a block that the whole file is."""
    _, _, _, *counts = line.split(" ")
    return " ".join(["0", str(len(data)), digest(data), *counts])
