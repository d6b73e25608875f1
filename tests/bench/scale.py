"""Caches of 1,000 to 100,000 shards: what opening, describing, resuming and finishing them costs.

The shards are one file by many names, with a commit record each, so that a cache of 100,000 is made in seconds: what is
measured reads the names, the records and the manifest, not what shards hold. Each row is a process of its own, and is
what it takes beyond its imports, but for `inspect`, which is the whole command.
"""

import json
import os
import shutil
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import numpy as np

from kdcache import CacheWriter
from kdcache.store.places import record_name, shard_name
from tests.bench.part import Part, Rows
from tests.bench.tables import figure, table

SHARDS = (1_000, 10_000, 100_000)
QUICK = (1_000, 10_000)
MEASURE = """
import json, sys, time
from pathlib import Path
import numpy
from kdcache.store.builder import CacheBuilder
from kdcache.store.cache import open_cache
from kdcache.store.manifest import Header, parse

def status(key):
    return next(int(line.split()[1]) for line in open("/proc/self/status") if line.startswith(key)) / 1e3

what, folder, shards = sys.argv[1], sys.argv[2], int(sys.argv[3])
header = parse(Header, Path(folder, "header.json").read_bytes(), "header.json")
Path("/proc/self/clear_refs").write_text("5")
before, started, clock = status("VmRSS"), time.process_time(), time.perf_counter()
if what == "open":
    cache = open_cache(folder)
    assert cache.digest and cache.shard_examples.sum() == 2 * shards
    if "first" in sys.argv:
        cache.read_block(0, 0)
else:
    with CacheBuilder(folder, header) as builder:
        commits = builder.commits()
        assert len(commits) == shards
        if what == "finish":
            started = time.process_time()
            builder.finalize(shards)
print(json.dumps([time.process_time() - started, time.perf_counter() - clock, status("VmHWM") - before]))
"""


def fill(folder: Path, shards: int) -> None:
    """A begun cache of so many committed shards of labels alone, 500 of them links to one file."""
    writer = CacheWriter(folder, num_classes=100, record=None, examples_per_shard=2)
    for _ in range(2):
        writer.add(np.zeros(4, np.int64))
    header, (first,) = writer.header, folder.glob("shards/000/*.json")
    writer.builder.release()
    shard, text = folder / shard_name(header, 0), first.read_text()
    for unit in range(1, shards):
        target = folder / shard_name(header, unit)
        if unit % 500 == 0:
            target.parent.mkdir(parents=True)
            shutil.copyfile(shard, target)
            shard = target
        else:
            os.link(shard, target)
        record = text.replace(shard_name(header, 0), shard_name(header, unit)).replace(
            '"unit": 0\n', f'"unit": {unit}\n'
        )
        (folder / record_name(unit)).write_text(record)


def run(quick: bool) -> Rows:
    rows: Rows = {}
    for shards in QUICK if quick else SHARDS:
        with tempfile.TemporaryDirectory() as name:
            folder = Path(name) / "cache"
            fill(folder, shards)
            rows[str(shards)] = found = {what: _measured(what, folder, shards) for what in ("restart", "finish")}
            found["open"] = _measured("open", folder, shards)
            found["inspect"] = _command(folder)
            found["bytes"] = sum(path.stat().st_size for path in folder.glob("*.*"))
    return rows


def _measured(what: str, folder: Path, shards: int) -> dict[str, float]:
    command = [sys.executable, "-c", MEASURE, what, str(folder), str(shards)]
    cpu, clock, memory = json.loads(subprocess.run(command, check=True, capture_output=True, text=True).stdout)
    return {"cpu": cpu, "clock": clock, "MB": memory}


def _command(folder: Path) -> dict[str, float]:
    """The whole of `kdcache inspect`."""
    started = time.perf_counter()
    process = subprocess.Popen([sys.executable, "-m", "kdcache", "inspect", str(folder)], stdout=subprocess.DEVNULL)
    _, status, usage = os.wait4(process.pid, 0)
    process.returncode = status
    assert status == 0
    return {
        "cpu": usage.ru_utime + usage.ru_stime,
        "clock": time.perf_counter() - started,
        "MB": usage.ru_maxrss / 1e3,
    }


def render(rows: Rows) -> str:
    whats = {
        "open": "open, with the digest",
        "inspect": "`kdcache inspect`, the whole process",
        "restart": "restart: every commit record listed and read",
        "finish": "finish: cache.json and its table",
    }
    lines = [
        [words, *(f"{figure(of[what]['cpu'], 2)} s, {figure(of[what]['MB'], 2)} MB" for of in rows.values())]
        for what, words in whats.items()
    ]
    sizes = ["bytes of the manifest", *(f"{figure(of['bytes'] / 1e6, 2)} MB" for of in rows.values())]
    return (
        "CPU seconds, and MB by which the most resident memory stands above what was resident before (of `inspect`: "
        "all). The time of a store's answers is not in them: opening asks for two files, whatever the number of "
        "shards.\n\n" + table(["", *(f"{int(shards):,} shards" for shards in rows)], [*lines, sizes])
    )


PART = Part(name="scale", title="Scale: caches of 1,000 to 100,000 shards", minutes=2, run=run, render=render)
