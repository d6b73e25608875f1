"""Two Ray workers beside two plain ranks of one dump, in turn: seconds by the clock and of CPU, start-up apart.

    PYTHONPATH=.:tests python -m tests.bench.ray_ranks 2        so many rounds, of a minute on two quiet cores

Start-up lasts until the first shard is committed, and for Ray holds the start of a cluster on this machine. CPU seconds
are those of the command and of everything that it started, looked at each tenth of a second.
"""

import os
import subprocess
import sys
import tempfile
import time
from pathlib import Path
from typing import Any

import psutil
import yaml
from helpers import make_model, make_tokenizer, sentences, write_jsonl

UNITS, ROWS = 40, 40


def settings_in(home: Path) -> dict[str, Any]:
    """A dump of about 160,000 tokens by a teacher of 4 layers of 128."""
    make_tokenizer(home / "teacher")
    make_model(home / "teacher", vocab_size=330, layers=4, hidden=128)
    write_jsonl(home / "corpus.jsonl", sentences(UNITS * ROWS))
    return {
        "corpus": {"paths": str(home / "corpus.jsonl"), "format": "jsonl", "unit_rows": ROWS},
        "teacher": {"path": str(home / "teacher"), "dtype": "float32"},
        "task": {"sequence_length": 128},
        "compute": {"threads": 1},
    }


def commands(side: str, config: Path) -> list[list[str]]:
    """What is started at once."""
    dump = [sys.executable, "-m", "kdcache", "dump-logits", str(config)]
    if side == "ray":
        return [[*dump, "--ray", "--num-workers", "2", "--ray-address", "local"]]
    return [[*dump, "--rank", str(rank), "--world-size", "2"] for rank in range(2)]


def timed(side: str, settings: dict[str, Any], home: Path) -> dict[str, float]:
    """One dump."""
    output = home / "cache"
    config = home / "dump.yaml"
    config.write_text(yaml.safe_dump({**settings, "output": str(output)}))
    environment = os.environ | {"RAY_AUTH_MODE": "disabled", "RAY_USAGE_STATS_ENABLED": "0"}
    start, seconds, marks = time.monotonic(), dict[int, float](), list[tuple[int, float, float]]()
    with (home / "log").open("w") as log:
        started = [subprocess.Popen(c, env=environment, stdout=log, stderr=log) for c in commands(side, config)]
        while any(process.poll() is None for process in started):
            look(started, seconds)
            shards = len([*output.rglob("shards/*/*.json")])
            if shards and (not marks or shards != marks[-1][0]):
                marks.append((shards, time.monotonic() - start, sum(seconds.values())))
            time.sleep(0.1)
    assert not any(process.returncode for process in started), (home / "log").read_text()
    (before, began, began_cpu), (after, ended, ended_cpu) = marks[0], marks[-1]
    return {
        "start-up s": began,
        "start-up CPU s": began_cpu,
        "s per shard": (ended - began) / (after - before),
        "CPU s per shard": (ended_cpu - began_cpu) / (after - before),
        "in all s": time.monotonic() - start,
        "in all CPU s": sum(seconds.values()),
    }


def look(started: list[subprocess.Popen[bytes]], seconds: dict[int, float]) -> None:
    """Bring the CPU seconds of these processes and their children up to date."""
    for process in started:
        try:
            root = psutil.Process(process.pid)
            for one in [root, *root.children(recursive=True)]:
                took = one.cpu_times()
                seconds[one.pid] = took.user + took.system
        except psutil.Error:
            continue


def main() -> None:
    for round in range(int(sys.argv[1])):
        for side in ("ranks", "ray")[:: 1 if round % 2 == 0 else -1]:
            with tempfile.TemporaryDirectory() as folder:
                found = timed(side, settings_in(Path(folder)), Path(folder))
            print(f"{side:6}", *(f"{name} {value:.2f}" for name, value in found.items()), sep="  ", flush=True)


if __name__ == "__main__":
    main()
