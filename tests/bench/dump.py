"""A dump against the bare forward pass of its teacher, and two ranks against one.

What counts is what more text costs, whatever a start costs (Python, the teacher's weights, their digests, the trial
pass): so one dump of several units is made, and beside each unit the bare side, which holds the same teacher in memory,
computes this unit's windows in the same batch and keeps nothing, now before the dump's part and now after it. A unit's
cost is the process's CPU time from its begin to that of the next one, less the bare side's: tokenising, compressing,
writing, digests and commits of it are in it. So both sides are in turn in one process, and each unit is a round.

Ranks are processes of one thread each, as a user starts them. Their CPU seconds are told, and whether the bytes are the
same; the clock would say how busy the machine is.
"""

import hashlib
import json
import os
import statistics
import subprocess
import sys
import tempfile
import time
from collections.abc import Callable, Sequence
from pathlib import Path
from typing import Any
from unittest.mock import patch

import numpy as np
import torch

from tests.bench.part import Part, Rows
from tests.bench.scene import teacher_folder, texts, use_threads
from tests.bench.tables import figure, spread, table

LENGTH, BATCH, ROWS = 256, 8, 8  # batches of 8 windows are what a dump makes of them on a CPU
WRITTEN = 2.0
"""Seconds after which a unit that is made is surely written."""


def run(quick: bool) -> Rows:
    threads = use_threads()
    units = 3 if quick else 8
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        windows = _windows(units * BATCH)
        _dump(folder, _corpus(folder / "first.jsonl", windows[:BATCH]), threads)  # compiles
        corpus = _corpus(folder / "corpus.jsonl", windows)
        bare, made, whole, stages = _in_turn(folder, corpus, _bare(windows), threads)
        both = _corpus(folder / "ranks.jsonl", windows[: 2 * BATCH])
        ranks = {str(count): _ranks(folder, both, count) for count in (1, 2)}
    same = ranks["1"].pop("digest") == ranks["2"].pop("digest")
    return {
        "threads": threads, "bare": bare, "made": made, "whole": whole, "stages": stages, "ranks": ranks,
        "same_bytes": same,
    }  # fmt: skip


def _in_turn(
    folder: Path, corpus: Path, bare: Callable[[int], None], threads: int
) -> tuple[Rows, Rows, float, dict[str, float]]:
    """CPU and clock seconds of the bare forward and of the dump for each unit but the last, CPU seconds of the whole
    dump without the bare forwards; seconds of each stage.
    """
    from kdcache.dump import make

    begun: list[np.ndarray] = []
    forwards: list[np.ndarray] = []
    unit_arrays = make.unit_arrays

    def beside_bare(header: Any, unit: int, *arguments: Any, **settings: Any) -> Any:
        time.sleep(WRITTEN)
        begun.append(_now())
        if unit % 2 == 0:
            forwards.append(_took(bare, unit))
        arrays = unit_arrays(header, unit, *arguments, **settings)
        if unit % 2 == 1:
            forwards.append(_took(bare, unit))
        return arrays

    started = time.process_time()
    with patch.object(make, "unit_arrays", beside_bare):
        stages = _dump(folder, corpus, threads)
    whole = time.process_time() - started - float(sum(forwards)[0])
    units = np.diff(begun, axis=0) - forwards[:-1] - [0.0, WRITTEN]
    return _by_clock(forwards[:-1]), _by_clock(units), whole, stages


def _now() -> np.ndarray:
    """Seconds of CPU, and of the clock."""
    return np.array([time.process_time(), time.perf_counter()])


def _took(bare: Callable[[int], None], unit: int) -> np.ndarray:
    begin = _now()
    bare(unit)
    return _now() - begin


def _by_clock(seconds: Sequence[np.ndarray] | np.ndarray) -> Rows:
    cpu, clock = np.transpose(seconds).tolist()
    return {"cpu": cpu, "clock": clock}


def _windows(count: int) -> list[str]:
    """Texts of exactly a window of tokens less its end, so that both sides see the same batches."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher_folder())
    ids = [token for text in texts()[:80] for token in tokenizer(text, verbose=False)["input_ids"]]
    return [tokenizer.decode(ids[start : start + LENGTH - 1]) for start in range(0, count * LENGTH, LENGTH)]


def _corpus(path: Path, windows: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": window}) + "\n" for window in windows))
    return path


def _bare(windows: list[str]) -> Callable[[int], None]:
    """The forward pass of a unit."""
    from transformers import AutoModelForCausalLM, AutoTokenizer

    teacher = AutoModelForCausalLM.from_pretrained(teacher_folder(), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder())
    ids = [token for window in windows for token in [*tokenizer(window)["input_ids"], tokenizer.eos_token_id]]
    batches = torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).reshape(-1, LENGTH).split(BATCH)

    def forward(unit: int) -> None:
        with torch.inference_mode():
            teacher(batches[unit], use_cache=False)

    return forward


def _settings(output: Path, corpus: Path, threads: int) -> dict[str, object]:
    return {
        "output": str(output),
        "corpus": {"paths": str(corpus), "format": "jsonl", "text_field": "text", "unit_rows": ROWS},
        "teacher": {"path": str(teacher_folder()), "dtype": "float32"},
        "task": {"name": "causal_lm", "sequence_length": LENGTH, "packing": "windows", "attention": "causal"},
        "compute": {"threads": threads},
    }


def _dump(folder: Path, corpus: Path, threads: int) -> dict[str, float]:
    """Seconds of each stage by the clock, as dump-logits --profile writes them."""
    from kdcache.config.file import load_config
    from kdcache.dump.run import run_dump
    from kdcache.dump.settings import DumpConfig
    from kdcache.launcher import World

    output = Path(tempfile.mkdtemp(dir=folder)) / "cache"
    path, profile = output.parent / "dump.yaml", output.parent / "profile.json"
    path.write_text(json.dumps(_settings(output, corpus, threads)))
    run_dump(load_config(DumpConfig, path), World(0, 1), profile=str(profile))
    seconds: dict[str, float] = {}
    for event in json.loads(profile.read_text())["traceEvents"]:
        if event["ph"] == "X":
            seconds[event["cat"]] = seconds.get(event["cat"], 0.0) + event["dur"] / 1e6
    return seconds


def _ranks(folder: Path, corpus: Path, count: int) -> Rows:
    """CPU seconds of each process, from its start to its end, and the digest of what they made."""
    output = folder / f"ranks-{count}" / "cache"
    path = folder / f"ranks-{count}.yaml"
    path.write_text(json.dumps(_settings(output, corpus, 1)))
    words = [sys.executable, "-m", "kdcache", "dump-logits", str(path), "--world-size", str(count)]
    logs = [(folder / f"rank-{count}-{rank}.log").open("w+") for rank in range(count)]
    started = [
        subprocess.Popen([*words, "--rank", str(rank)], stdout=log, stderr=subprocess.STDOUT)
        for rank, log in enumerate(logs)
    ]
    cpu = []
    for process, log in zip(started, logs, strict=True):
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        if process.returncode != 0:
            log.seek(0)
            raise RuntimeError((log.read().strip().splitlines() or [f"status {process.returncode}"])[-1])
        cpu.append(used.ru_utime + used.ru_stime)
    return {"cpu": cpu, "digest": _digest(output)}


def _digest(folder: Path) -> str:
    """Of the shards, their commit records and the manifest."""
    files = [folder / "cache.json", *sorted(path for path in folder.glob("shards/**/*") if path.is_file())]
    digest = hashlib.sha256()
    for path in files:
        digest.update(path.relative_to(folder).as_posix().encode() + path.read_bytes())
    return digest.hexdigest()


def render(rows: Rows) -> str:
    lines = []
    for clock, name in (("cpu", "CPU s"), ("clock", "s by the clock")):
        bare, made = rows["bare"][clock], rows["made"][clock]
        ratios = [forward / unit for forward, unit in zip(bare, made, strict=True)]
        ratio = spread((statistics.median(ratios), min(ratios), max(ratios)))
        lines.append([name, figure(statistics.median(bare)), figure(statistics.median(made)), ratio])
    count, made = len(ratios), statistics.median(rows["made"]["cpu"])
    start = rows["whole"] - (count + 1) * made
    stages = ", ".join(f"{name} {took / sum(rows['stages'].values()):.1%}" for name, took in rows["stages"].items())
    one, two = rows["ranks"]["1"]["cpu"], rows["ranks"]["2"]["cpu"]
    return (
        f"SmolLM2-135M in float32, {rows['threads']} threads, default record. Seconds for {BATCH * LENGTH:,} "
        f"tokens in one batch of {BATCH} windows, medians of {count} units, beside each of which the bare side "
        "computes it too; the median of the units' ratios, in brackets the least and the greatest.\n\n"
        + table(["", "bare forward", "kdcache dump-logits", "speed against the bare forward"], lines)
        + f"\n\nA dump starts and ends in {figure(start)} CPU s besides, whatever its size. Its stages by the clock: "
        f"{stages}.\n\nOf {2 * BATCH * LENGTH:,} tokens with one thread each, one rank takes {figure(one[0])} CPU s, "
        f"and two ranks {' and '.join(map(figure, two))}, each with its own start. Their shards, commit records and "
        f"manifest are {'the same bytes' if rows['same_bytes'] else '**not the same bytes**'}."
    )


PART = Part(name="dump", title="Dump: against the bare forward, one and two ranks", minutes=4, run=run, render=render)
