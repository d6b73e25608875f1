"""Loaders: decoded MB and examples per CPU second, CPU seconds to the first batch, bytes on disk."""

import json
import random
import shutil
import statistics
import subprocess
import sys
import tempfile
from pathlib import Path
from typing import Any

from tests.bench.part import Part, Rows
from tests.bench.payload import make_caches, pack_all, schema_of
from tests.bench.readers import READERS, drop_from_memory
from tests.bench.tables import figure, table
from tests.bench.timing import reason

ROUNDS = 2
EXAMPLES = {"long": 3_072, "short": 98_304}


def run(quick: bool) -> Rows:
    rows: Rows = {}
    for kind, examples in EXAMPLES.items():
        with tempfile.TemporaryDirectory(dir=Path.home() / ".cache") as name:
            rows[kind] = _compare(Path(name), kind, examples // 16 if quick else examples, 1 if quick else ROUNDS)
    return rows


def _compare(work: Path, kind: str, examples: int, rounds: int) -> Rows:
    rows, folders = _written(work, kind, examples)
    for _ in range(rounds):
        for name in random.sample(list(folders), len(folders)):
            if "failed" not in rows[name]:
                drop_from_memory(folders[name])
                _measured(rows[name], name, folders[name])
    return rows


def _written(work: Path, kind: str, examples: int) -> tuple[Rows, dict[str, Path]]:
    caches = make_caches(work, kind, examples)
    sizes = caches["zarr"].shard_examples.tolist()
    known = json.dumps({"schema": schema_of(caches["zarr"]), "examples": examples, "shards": sizes})
    rows: Rows = {}
    folders: dict[str, Path] = {}
    for name, reader in READERS.items():
        folders[name] = work / name.replace(", ", "-").replace(" ", "-").lower()
        try:
            reader.load()
            if reader.write is None:
                shutil.copytree(work / name.split()[-1].lower(), folders[name])
            else:
                folders[name].mkdir()
                reader.write(folders[name], pack_all(caches["zarr"]))
            size = sum(path.stat().st_size for path in folders[name].rglob("*") if path.is_file())
            rows[name] = {"disk": size / examples}
        except Exception as error:
            rows[name] = {"failed": reason(error)}
        folders[name].mkdir(exist_ok=True)
        (folders[name] / "payload.json").write_text(known)
    return rows, folders


def _measured(row: dict[str, Any], name: str, folder: Path) -> None:
    words = [sys.executable, "-m", "tests.bench.readers", name, str(folder)]
    try:
        done = subprocess.run(words, capture_output=True, text=True, timeout=300, check=False)
    except subprocess.TimeoutExpired:
        row["failed"] = "no end after five minutes"
        return
    if done.returncode != 0:
        row["failed"] = (done.stderr.strip().splitlines() or [f"status {done.returncode}"])[-1]
        return
    for key, value in json.loads(done.stdout.strip().splitlines()[-1]).items():
        row.setdefault(key, []).append(value)


def render(rows: Rows) -> str:
    parts = [
        "Decoded bytes and examples per CPU second, one process without workers, batches of 64 in a shuffled order. "
        "Files are cold in the first epoch (page cache dropped) and warm in the next two; kdcache has as many lanes "
        "and as much memory as make it read every block again in each epoch. "
        "Start and resume: CPU seconds to the first batch, without imports. kdcache gives concatenated arrays and has "
        "checked every byte; the others give lists of examples and check nothing."
    ]
    for kind, of_kind in rows.items():
        about = {"long": "Windows of 256 tokens with the default record", "short": "Short texts with four classes"}[
            kind
        ]
        header = ["reader", "MB per CPU s", "examples per CPU s", "cold, MB per CPU s", "cold, MB per s",
                  "start, CPU s", "resume, CPU s", "bytes of an example on disk", "remark"]  # fmt: skip
        lines = [_line(name, row) for name, row in of_kind.items()]
        parts += [f"**{about}**", table(header, lines)]
    return "\n\n".join(parts)


def _line(name: str, row: Rows) -> list[str]:
    if "failed" in row:
        return [name, *[""] * 7, f"not run: {row['failed']}"]

    def rate(size: str, seconds: str, unit: float) -> str:
        return figure(statistics.median(s / t for s, t in zip(row[size], row[seconds], strict=True)) / unit)

    return [
        f"**{name}**" if name.startswith("kdcache") else name,
        rate("warm_bytes", "warm_cpu", 1e6),
        rate("warm_examples", "warm_cpu", 1),
        rate("cold_bytes", "cold_cpu", 1e6),
        rate("cold_bytes", "cold_clock", 1e6),
        figure(statistics.median(row["start"]), 2),
        figure(statistics.median(row["resume"]), 2) if not name.startswith("plain") else "",
        figure(row["disk"], 4),
        READERS[name].says,
    ]


PART = Part(
    name="loaders", title="Loaders: how much is read in a CPU second", minutes=7, run=run, render=render, peers=True
)
