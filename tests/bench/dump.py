"""A dump against the bare forward pass of its teacher, and two ranks against one.

Both are told by what more text costs: a dump of few windows and a dump of many are made, and their difference is what
the windows between them cost, whatever a start costs (Python, the teacher's weights, their digests, the trial pass).
The bare side holds the same teacher in memory and computes these windows in the same batches, and keeps nothing.
Tokenising, compressing, writing and digests are in the dump's time. In turn in one process, CPU seconds.

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
from collections.abc import Callable
from pathlib import Path

import torch

from tests.bench.part import Part, Rows
from tests.bench.scene import teacher_folder, texts, use_threads
from tests.bench.tables import figure, spread, table
from tests.bench.timing import interleaved

LENGTH, BATCH, ROWS = 256, 8, 8  # batches of 8 windows are what a dump makes of them on a CPU
FEW = "few"
BARE, DUMP = "bare forward", "kdcache dump-logits"


def run(quick: bool) -> Rows:
    threads = use_threads()
    few, many = (8, 16) if quick else (8, 24)
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        windows = _windows(many)
        corpora = {count: _corpus(folder / f"{count}.jsonl", windows[:count]) for count in (few, many)}
        profiles: list[dict[str, float]] = []
        sides = {
            BARE: _bare(windows[few:]),
            FEW: lambda: _dump(folder, corpora[few], threads),
            DUMP: lambda: profiles.append(_dump(folder, corpora[many], threads)),
        }
        _dump(folder, corpora[few], threads)  # compiles
        times = interleaved(sides, 1 if quick else 3, warm_up=0)
        failed = [f"{side}: {row['failed']}" for side, row in times.items() if "failed" in row]
        if failed:
            raise RuntimeError("; ".join(failed))
        both = _corpus(folder / "ranks.jsonl", windows[: 2 * few])
        ranks = {str(count): _ranks(folder, both, count) for count in (1, 2)}
    same = ranks["1"].pop("digest") == ranks["2"].pop("digest")
    return {
        "threads": threads, "tokens": (many - few) * LENGTH, "few": few * LENGTH, "many": many * LENGTH,
        "times": times, "stages": profiles, "ranks": ranks, "same_bytes": same,
    }  # fmt: skip


def _windows(count: int) -> list[str]:
    """Texts of exactly a window of tokens less its end, so that both sides see the same batches."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher_folder())
    ids = [token for text in texts()[:80] for token in tokenizer(text, verbose=False)["input_ids"]]
    return [tokenizer.decode(ids[start : start + LENGTH - 1]) for start in range(0, count * LENGTH, LENGTH)]


def _corpus(path: Path, windows: list[str]) -> Path:
    path.write_text("".join(json.dumps({"text": window}) + "\n" for window in windows))
    return path


def _bare(windows: list[str]) -> Callable[[], None]:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    teacher = AutoModelForCausalLM.from_pretrained(teacher_folder(), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder())
    ids = [token for window in windows for token in [*tokenizer(window)["input_ids"], tokenizer.eos_token_id]]
    batches = torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).reshape(-1, LENGTH).split(BATCH)

    def forward() -> None:
        with torch.inference_mode():
            for tokens_BL in batches:
                teacher(tokens_BL, use_cache=False)

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
    times = rows["times"]
    bare, few, many = (times[side]["cpu"] for side in (BARE, FEW, DUMP))
    added = [large - small for small, large in zip(few, many, strict=True)]
    of_rounds = [forward / more for forward, more in zip(bare, added, strict=True)]
    middle = statistics.median(many) - statistics.median(few)
    ratio = spread((statistics.median(bare) / middle, min(of_rounds), max(of_rounds)))
    start = statistics.median(few) - middle * rows["few"] / rows["tokens"]
    seconds = {name: statistics.median(found[name] for found in rows["stages"]) for name in rows["stages"][0]}
    stages = ", ".join(f"{name} {took / sum(seconds.values()):.1%}" for name, took in seconds.items())
    one, two = rows["ranks"]["1"]["cpu"], rows["ranks"]["2"]["cpu"]
    return (
        f"SmolLM2-135M in float32, {rows['threads']} threads, windows of {LENGTH}, default record. What "
        f"{rows['tokens']:,} tokens cost: of a dump, a dump of {rows['many']:,} less one of {rows['few']:,}.\n\n"
        + table(
            ["", "CPU s", "speed against the bare forward"],
            [[BARE, figure(statistics.median(bare)), "1"], [DUMP, figure(middle), ratio]],
        )
        + f"\n\nA dump starts and ends in {figure(start)} CPU s besides, whatever its size. Its stages by the clock: "
        f"{stages}.\n\nOf {2 * rows['few']:,} tokens with one thread each, one rank takes {figure(one[0])} CPU s, and "
        f"two ranks {' and '.join(map(figure, two))}, each with its own start. Their shards, commit records and "
        f"manifest are {'the same bytes' if rows['same_bytes'] else '**not the same bytes**'}."
    )


PART = Part(name="dump", title="Dump: against the bare forward, one and two ranks", minutes=5, run=run, render=render)
