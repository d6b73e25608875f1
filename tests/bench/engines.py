"""The same 20,000 tokens through transformers and through vLLM, each by the command that a user types.

Both run in the engines' environment (`. launch/environment.sh; install_engines`), where vLLM is, so with the same
torch and the same transformers. Each dump is a process of its own, which loads its teacher; they run in turn,
transformers first in one round and vLLM in the next. The time of making shards goes from the first stage of the first
unit to the last stage of the last one, as `--profile` writes them; the rest is the start: Python, the teacher, its
trial, vLLM's own start. The clock counts here, since vLLM computes in a process of its own, so the load average
stands beside it; CPU seconds are of the process and all that it started. What each engine says is compared on a few
windows with every class kept.
"""

import json
import os
import re
import statistics
import subprocess
import tempfile
import time
from pathlib import Path
from typing import Any

import torch

from kdcache.progress import counted
from tests.bench.machine import REPO
from tests.bench.part import Part, Rows
from tests.bench.scene import teacher_folder, texts, use_threads
from tests.bench.tables import figure, table

PYTHON = REPO / ".venv-engines/bin/python"
TOKENS, FEW, LENGTH = 20_000, 1_000, 512
ROUNDS = 1
ENGINES: dict[str, Any] = {
    "transformers": "transformers",
    "vLLM": {"kind": "vllm", "arguments": {"enforce_eager": True}},
}
VLLM = {
    "VLLM_CPU_KVCACHE_SPACE": "1",
    "VLLM_CPU_OMP_THREADS_BIND": "nobind",
    "VLLM_NO_USAGE_STATS": "1",
    "DO_NOT_TRACK": "1",
}
VERSIONS = "import torch, transformers, vllm; print(torch.__version__, transformers.__version__, vllm.__version__)"


def run(quick: bool) -> Rows:
    if not PYTHON.exists():
        raise RuntimeError(f"no {PYTHON}, expected the engines' environment: . launch/environment.sh; install_engines")
    threads = use_threads()
    with tempfile.TemporaryDirectory() as name:
        folder = Path(name)
        many, few = (_corpus(folder / f"{count}.jsonl", count) for count in (FEW if quick else TOKENS, FEW))
        made: dict[str, list[Rows]] = {name: [] for name in ENGINES}
        for turn in range(ROUNDS):
            for name in [*ENGINES][:: 1 if turn % 2 == 0 else -1]:
                made[name].append(_dump(folder / f"{name}-{turn}", many, name, "sampled"))
        for name in ENGINES:
            _dump(folder / f"{name}-dense", few, name, "dense")
        kl_P = _kl(folder / "transformers-dense", folder / "vLLM-dense")
        same = _certain(*(folder / f"{name}-0" for name in ENGINES))
    versions = subprocess.run(
        [PYTHON, "-c", VERSIONS], check=True,
        stdout=subprocess.PIPE, stderr=subprocess.DEVNULL, text=True, env=os.environ | VLLM,
    ).stdout.split()[-3:]  # fmt: skip
    return {
        "threads": threads, "made": made, "positions_compared": len(kl_P), "kl_mean": float(kl_P.mean()),
        "kl_most": float(kl_P.max()), "certain_equal": same, "in_environment": versions,
    }  # fmt: skip


def _corpus(path: Path, tokens: int) -> Path:
    """Documentation of about so many tokens, of four characters each, 3,000 characters a row."""
    text = "\n\n".join(texts())[: 4 * tokens]
    rows = [text[start : start + 3000] for start in range(0, len(text), 3000)]
    path.write_text("".join(json.dumps({"text": row}) + "\n" for row in rows))
    return path


def _dump(output: Path, corpus: Path, engine: str, record: str) -> Rows:
    """Seconds, tokens and bytes of one dump."""
    settings = {
        "output": str(output),
        "corpus": {"paths": str(corpus), "format": "jsonl", "unit_rows": 8},
        "teacher": {"path": str(teacher_folder()), "dtype": "float32", "engine": ENGINES[engine]},
        "task": {"sequence_length": LENGTH, "attention": "causal"},
        "record": {"kind": record},
    }
    path, profile = output.with_suffix(".yaml"), output.with_suffix(".profile.json")
    path.write_text(json.dumps(settings))
    command = [str(PYTHON), "-m", "kdcache", "dump-logits", str(path), "--profile", str(profile)]
    environment = os.environ | VLLM | {"PYTHONPATH": str(REPO)}
    started = time.perf_counter()
    with output.with_suffix(".log").open("w+") as log:
        process = subprocess.Popen(command, stdout=log, stderr=subprocess.STDOUT, env=environment)
        _, status, used = os.wait4(process.pid, 0)
        process.returncode = os.waitstatus_to_exitcode(status)
        whole = time.perf_counter() - started
        log.seek(0)
        said = log.read()
    if process.returncode != 0:
        raise RuntimeError((said.strip().splitlines() or [f"status {process.returncode}"])[-1])
    spans = [event for event in json.loads(profile.read_text())["traceEvents"] if event["ph"] == "X"]
    making = (max(s["ts"] + s["dur"] for s in spans) - min(s["ts"] for s in spans)) / 1e6
    tokens = re.search(r"([\d,]+) tokens in", said)
    size = re.search(r"([\d.,]+) bytes per position", said)
    assert tokens
    assert size
    return {
        "whole": whole, "making": making, "cpu": used.ru_utime + used.ru_stime, "load": os.getloadavg()[0],
        "tokens": int(tokens[1].replace(",", "")), "bytes": float(size[1].replace(",", "")),
    }  # fmt: skip


def _kl(expected: Path, found: Path) -> torch.Tensor:
    """From the first cache to the second, in nats at T = 1, of each position."""
    import kdcache

    theirs, ours = kdcache.open_cache(expected), kdcache.open_cache(found)
    parts = []
    for place in range(len(theirs)):
        p_PV, q_PV = (cache.read(place, place + 1).targets().dense_log_probs(1.0).double() for cache in (theirs, ours))
        parts.append((p_PV.exp() * (p_PV - q_PV)).sum(-1))
    return torch.cat(parts)


def _certain(*folders: Path) -> float:
    """The share of positions with the same certain entries in the same order."""
    import kdcache

    a, b = ((cache := kdcache.open_cache(folder)).read(0, len(cache)).targets() for folder in folders)
    width = min(a.ids_PE.shape[1], b.ids_PE.shape[1])
    certain_PE = torch.arange(width) < a.num_certain_P[:, None]
    same_P = ((a.ids_PE[:, :width] == b.ids_PE[:, :width]) | ~certain_PE).all(1)
    return float((same_P & (a.num_certain_P == b.num_certain_P)).float().mean())


def render(rows: Rows) -> str:
    lines = []
    for name, dumps in rows["made"].items():
        middle = {key: statistics.median(each[key] for each in dumps) for key in dumps[0]}
        rates = [each["tokens"] / each["making"] for each in dumps]
        loads = ", ".join(f"{each['load']:.1f}" for each in dumps)
        lines.append([
            name, figure(middle["whole"]), figure(middle["whole"] - middle["making"]), figure(middle["making"]),
            f"{statistics.median(rates):,.0f} ({min(rates):,.0f}–{max(rates):,.0f})", figure(middle["cpu"]),
            f"{middle['bytes']:.1f}", loads,
        ])  # fmt: skip
    first, second = (rows["made"][name] for name in ENGINES)
    ratios = [one["making"] / other["making"] for one, other in zip(first, second, strict=True)]
    torch_version, transformers, vllm = rows["in_environment"]
    return (
        f"SmolLM2-135M in float32, {rows['threads']} threads, {first[0]['tokens']:,} tokens in windows of {LENGTH}, "
        f"default record; torch {torch_version}, transformers {transformers}, vLLM {vllm} on both sides. Seconds by "
        f"the clock, medians of {counted(len(first), 'dump')} of each, in turn.\n\n"
        + table(
            ["engine", "whole command, s", "its start, s", "making shards, s", "tokens per second of making",
             "CPU s of the whole", "bytes per position", "load average after each"],
            lines,
        )
        + f"\n\nMaking shards, vLLM is {statistics.median(ratios):.2f} times as fast as transformers by the clock "
        f"(least {min(ratios):.2f}, greatest {max(ratios):.2f} of {counted(len(ratios), 'round')}). At "
        f"{rows['positions_compared']:,} positions with every class kept, the KL from transformers' records to vLLM's "
        f"is {rows['kl_mean']:.2g} nats on the mean and {rows['kl_most']:.2g} at most; of the default records, "
        f"{rows['certain_equal']:.2%} of the positions have the same certain entries in the same order."
        + (f" {rows['note']}" if "note" in rows else "")
    )  # fmt: skip


PART = Part(
    name="engines",
    title="Engines: the same tokens through transformers and vLLM",
    minutes=6,
    run=run,
    render=render,
    usual=False,
)
