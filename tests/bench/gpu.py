"""On one GPU: what a dump, a training step and the loss cost beside the work that nobody can spare.

    bash launch/bench_gpu.sh            at most ten minutes on one GPU
    bash launch/bench_gpu.sh --tiny     seconds, on a CPU too: to see that it runs

Models are made from configs and words are random (gpu_scene.py); sides of a ratio run in turn, and are timed by events.
Without a GPU everything is tiny and its figures say nothing of one.
"""

import argparse
import statistics
import sys
import tempfile
from datetime import UTC, datetime
from pathlib import Path
from typing import Any

import torch

import kdcache
from tests.bench import gpu_sides
from tests.bench.cuda_timing import in_turn, median, peak_memory
from tests.bench.gpu_scene import FULL, TINY, Size, make_corpus, make_teacher
from tests.bench.machine import commit, hardware, versions
from tests.bench.part import Part, Rows
from tests.bench.tables import figure, spread, table
from tests.bench.timing import against, reason

CACHED = "kdcache, forward KL from the cache"
LABELS = "kdcache, cross-entropy from the cache"
PLAIN = "plain PyTorch, cross-entropy"
FUSED, DENSE = "fused forward KL, cached record", "plain PyTorch, dense forward KL"


def run(quick: bool) -> Rows:
    device = torch.device("cuda" if torch.cuda.is_available() else "cpu")
    size = TINY if quick or device.type == "cpu" else FULL
    with tempfile.TemporaryDirectory(prefix="kdcache-gpu-") as name:
        folder = Path(name)
        teacher = make_teacher(folder / "teacher", size, device)
        corpus = make_corpus(folder / "corpus.jsonl", size)
        of_dump, cache = _dumps(folder, teacher, corpus, size, device)
        of_step = _steps(cache, size, device)
        bus = gpu_sides.bandwidth(cache, gpu_sides.Student(cache, size, device), size)
    return {
        "device": torch.cuda.get_device_name() if device.type == "cuda" else "no GPU, the CPU in its place",
        "cuda": torch.version.cuda,
        "length": size.length,
        "parameters": [size.parameters("teacher"), size.parameters("student")],
        "batch": size.batch,
        "classes": size.classes,
        "positions": size.loss,
        "dump": of_dump,
        "step": of_step,
        "bus": bus,
        "loss": _losses(size, device),
    }


def _dumps(folder: Path, teacher: Path, corpus: Path, size: Size, device: torch.device) -> tuple[Rows, kdcache.Cache]:
    """Dump and bare forward in turn, the forward before and after each dump."""
    rows: Rows = {"bare": [], "dump": [], "shares": []}
    tokens = 16_384 if device.type == "cuda" else 128
    bare = gpu_sides.bare_forward(teacher, size, tokens, device)
    times = max(2, size.tokens // 4 // tokens)
    bare(2)
    for turn in range(3 if device.type == "cuda" else 1):
        before = bare(times)
        cache, found = gpu_sides.dump(folder / f"dump-{turn}", teacher, corpus, size, device)
        rows["bare"].append((before + bare(times)) / 2)
        rows["dump"].append(found["speed"])
        rows["shares"].append(found["shares"])
    return rows, kdcache.open_cache(cache)


def _steps(cache: kdcache.Cache, size: Size, device: torch.device) -> Rows:
    sides, closing = {}, []
    waited: dict[str, list[float]] = {CACHED: [], LABELS: []}
    for name, term in ((CACHED, "divergence"), (LABELS, "cross_entropy")):
        student = gpu_sides.Student(cache, size, device)
        sides[name], close = gpu_sides.cached(student, cache, size, term, waited[name])
        closing.append(close)
    sides[PLAIN] = gpu_sides.plain(gpu_sides.Student(cache, size, device), cache, size)
    try:
        times = in_turn(sides, **_many(device))
    finally:
        for close in closing:
            close()
    return {"times": times, "waited": {name: statistics.median(found) for name, found in waited.items()}}


def _many(device: torch.device) -> dict[str, Any]:
    """How often steps are timed."""
    return {"device": device, **({"rounds": 8, "times": 10} if device.type == "cuda" else {"rounds": 1, "times": 1})}


def _losses(size: Size, device: torch.device) -> Rows:
    sides, memory = {}, {}
    for name, make in gpu_sides.losses(size, device).items():
        try:
            sides[name] = make()
            sides[name]()
            memory[name] = peak_memory(sides[name], device)
        except Exception as error:
            memory[name] = reason(error)
            sides.pop(name, None)
    return {"times": in_turn(sides, **_many(device)), "memory": memory}


def render(rows: Rows) -> str:
    """Markdown."""
    return "\n\n".join([_of_dump(rows), _of_step(rows), _of_bus(rows), _of_loss(rows)])


def _of_dump(rows: Rows) -> str:
    found = rows["dump"]
    bare, dump = (statistics.median(found[name]) for name in ("bare", "dump"))
    ratios = [d / b for d, b in zip(found["dump"], found["bare"], strict=True)]
    shares = ", ".join(
        f"{stage} {statistics.median(s.get(stage, 0.0) for s in found['shares']):.0%}"
        for stage in ("tokenise", "forward", "compress", "write")
    )
    return (
        f"**{rows['device']}.** A Llama of {_count(rows['parameters'][0])} parameters in bfloat16 with "
        f"{rows['classes']:,} classes, windows of "
        f"{rows['length']:,} random words, logits as spread as a language model's, default record.\n\n"
        + table(
            ["", "tokens/s", "ratio", "wanted"],
            [
                ["bare forward", figure(bare), "1", ""],
                ["kdcache dump-logits", figure(dump), spread((dump / bare, min(ratios), max(ratios))), "≥ 0.95"],
            ],
        )
        + f"\n\nShares of the dump's time, side by side: {shares}."
    )


def _of_step(rows: Rows) -> str:
    times, waited = rows["step"]["times"], rows["step"]["waited"]
    base = times[PLAIN]
    lines = []
    for name, row in times.items():
        if "failed" in row or "failed" in base:
            lines.append([name, f"not run: {row.get('failed', '')}", "", ""])
            continue
        wanted = "≤ 1.03" if name == CACHED else ""
        lines.append([name, figure(median(row) * 1e3), spread(against(row, base, "seconds")), wanted])
    host = ""
    if "failed" not in times[CACHED]:
        share = waited[CACHED] / max(median(times[CACHED]), 0.05)
        host = (
            f"\n\nBetween two steps the host takes {waited[CACHED] * 1e3:.2f} ms for the next micro-batch, {share:.1%} "
            "of a step, of 50 ms where it is shorter (wanted: at most 1%)."
        )
    return (
        f"A whole step (forward, backward, AdamW) of {rows['batch']} windows, a student of "
        f"{_count(rows['parameters'][1])} parameters in "
        "bfloat16:\n\n" + table(["step", "ms", "ratio", "wanted"], lines) + host
    )


def _of_bus(rows: Rows) -> str:
    bus = rows["bus"]
    return (
        f"A micro-batch crosses the bus in {bus['micro_batch_bytes']:,} bytes, {bus['bytes_per_position']:.0f} per "
        f"position (wanted: at most 110), from {'pinned' if bus['pinned'] else 'plain'} memory, at "
        f"{bus['micro_batch'] / 1e9:.1f} GB/s, where one large copy reaches {bus['large'] / 1e9:.1f}: "
        f"{bus['micro_batch'] / bus['large']:.0%}. With its records decoded it takes "
        f"{bus['arrival_seconds'] * 1e3:.2f} ms, beside the step. Copies inside the device's memory move "
        f"{bus['device'] / 1e9:,.0f} GB/s."
    )


def _of_loss(rows: Rows) -> str:
    times, memory = rows["loss"]["times"], rows["loss"]["memory"]
    base = times[DENSE]
    lines = []
    for name, size in memory.items():
        row = times.get(name, {"failed": size})
        shown = f"{size:,.0f}" if isinstance(size, int | float) else ""
        if "failed" in row or "failed" in base:
            lines.append([name, f"not run: {row.get('failed', '')}", "", shown])
        else:
            lines.append([name, figure(median(row) * 1e3), spread(against(row, base, "seconds")), shown])
    return (
        f"Forward and backward of output layer and loss alone, {rows['positions']:,} positions; memory above hidden "
        "states, weight and what is known of the teacher:\n\n" + table(["loss", "ms", "ratio", "memory, MB"], lines)
    )


def _count(parameters: int) -> str:
    return f"{parameters / 1e9:.1f} B" if parameters >= 1e9 else f"{parameters / 1e6:.0f} M"


PART = Part(name="gpu", title="On one GPU", minutes=8, run=run, render=render, usual=False)


def main() -> None:
    parser = argparse.ArgumentParser("bench_gpu.sh", description=__doc__, formatter_class=argparse.RawTextHelpFormatter)
    parser.add_argument("output", nargs="?", default="runs/bench_gpu.md", help="the Markdown; %(default)s")
    parser.add_argument("--tiny", action="store_true", help="small sizes: to see that it runs, not to be quoted")
    options = parser.parse_args()
    rows: dict[str, Any] = run(options.tiny)
    libraries = ", ".join(f"{name} {version}" for name, version in versions().items())
    small = "**With `--tiny`, so not to be quoted.** " if options.tiny else ""
    head = f"{small}{datetime.now(UTC):%Y-%m-%d %H:%M UTC}, {hardware()}, CUDA {rows['cuda']}; {libraries}; {commit()}."
    text = f"# On one GPU\n\n{head}\n\n{render(rows)}\n"
    path = Path(options.output)
    path.parent.mkdir(parents=True, exist_ok=True)
    path.write_text(text)
    print(text)
    print(f"wrote {path}", file=sys.stderr)


if __name__ == "__main__":
    main()
