"""A dump against the bare forward pass of its teacher, and two ranks against one.

The bare side loads the same teacher, makes the same tokens, and computes body and output layer in the same batches; it
keeps nothing. The dump does all that `kdcache dump-logits` does. In turn in one process, CPU seconds. Ranks are
processes of one thread each, as a user starts them, by the clock: a machine with other work says little of them.
"""

import json
import statistics
import subprocess
import sys
import tempfile
import time
from pathlib import Path

import torch

from tests.bench.part import Part, Rows
from tests.bench.scene import teacher_folder, texts, use_threads
from tests.bench.tables import figure, spread, table
from tests.bench.timing import against, interleaved

LENGTH, BATCH, ROWS = 256, 8, 8  # batches of 8 windows are what a dump makes of them on a CPU


def run(quick: bool) -> Rows:
    threads = use_threads()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        corpus, tokens = _corpus(folder / "corpus.jsonl", 4 if quick else 32)
        sides = {"bare forward": lambda: _bare(corpus), "kdcache dump-logits": lambda: _dump(folder, corpus, threads)}
        times = interleaved(sides, 1 if quick else 3)
        _, many = _corpus(folder / "many.jsonl", 4 if quick else 64)
        ranks = {str(count): _ranks(folder, folder / "many.jsonl", count) for count in (1, 2)}
    return {"threads": threads, "tokens": tokens, "times": times, "ranks": ranks, "many": many}


def _corpus(path: Path, windows: int) -> tuple[Path, int]:
    """Rows of exactly a window of tokens, so that both sides see the same batches."""
    from transformers import AutoTokenizer

    tokenizer = AutoTokenizer.from_pretrained(teacher_folder())
    ids = [token for text in texts()[:80] for token in tokenizer(text, verbose=False)["input_ids"]]
    rows = [tokenizer.decode(ids[start : start + LENGTH - 1]) for start in range(0, windows * LENGTH, LENGTH)]
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path, windows * LENGTH


def _bare(corpus: Path) -> None:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    teacher = AutoModelForCausalLM.from_pretrained(teacher_folder(), dtype=torch.float32).eval()
    tokenizer = AutoTokenizer.from_pretrained(teacher_folder())
    rows = [json.loads(line)["text"] for line in corpus.read_text().splitlines()]
    ids = [token for row in rows for token in [*tokenizer(row)["input_ids"], tokenizer.eos_token_id]]
    windows = torch.tensor(ids[: len(ids) // LENGTH * LENGTH]).reshape(-1, LENGTH)
    with torch.inference_mode():
        for tokens_BL in windows.split(BATCH):
            teacher(tokens_BL, use_cache=False)


def _settings(output: Path, corpus: Path, threads: int) -> dict[str, object]:
    return {
        "output": str(output),
        "corpus": {"paths": str(corpus), "format": "jsonl", "text_field": "text", "unit_rows": ROWS},
        "teacher": {"path": str(teacher_folder()), "dtype": "float32"},
        "task": {"name": "causal_lm", "sequence_length": LENGTH, "packing": "windows", "attention": "causal"},
        "compute": {"threads": threads},
    }


def _dump(folder: Path, corpus: Path, threads: int) -> None:
    from kdcache.config.file import load_config
    from kdcache.dump.run import run_dump
    from kdcache.dump.settings import DumpConfig
    from kdcache.launcher import World

    output = Path(tempfile.mkdtemp(dir=folder)) / "cache"
    path = output.parent / "dump.yaml"
    path.write_text(json.dumps(_settings(output, corpus, threads)))
    run_dump(load_config(DumpConfig, path), World(0, 1))


def _ranks(folder: Path, corpus: Path, count: int) -> dict[str, float]:
    """By the clock, from the first process's start to the last one's end."""
    output = folder / f"ranks-{count}"
    path = folder / f"ranks-{count}.yaml"
    path.write_text(json.dumps(_settings(output, corpus, 1)))
    words = [sys.executable, "-m", "kdcache", "dump-logits", str(path), "--world-size", str(count)]
    started = time.perf_counter()
    ranks = [
        subprocess.Popen([*words, "--rank", str(rank)], stderr=subprocess.PIPE, text=True) for rank in range(count)
    ]
    for rank in ranks:
        said = rank.communicate()[1].strip().splitlines()
        if rank.returncode != 0:
            raise RuntimeError(said[-1] if said else f"status {rank.returncode}")
    return {"clock": time.perf_counter() - started}


def render(rows: Rows) -> str:
    bare = rows["times"]["bare forward"]
    lines = [
        [name, figure(statistics.median(row["cpu"])), spread(against(bare, row))] for name, row in rows["times"].items()
    ]
    one, two = rows["ranks"]["1"]["clock"], rows["ranks"]["2"]["clock"]
    return (
        f"SmolLM2-135M in float32, {rows['threads']} threads, {rows['tokens']:,} tokens in windows of {LENGTH}, "
        "default record; loading, tokenising, compressing, writing and digests are in the dump's time.\n\n"
        + table(["", "CPU s", "speed against the bare forward"], lines)
        + f"\n\nTwo ranks of one thread each take {figure(two)} s by the clock for {rows['many']:,} tokens, where one "
        f"takes {figure(one)} s: {one / two:.2f} times as fast, the start of Python and the teacher's loading included."
    )


PART = Part(name="dump", title="Dump: against the bare forward, one and two ranks", minutes=5, run=run, render=render)
