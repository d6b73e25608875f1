"""Quality: one teacher, one student size, equal steps, and what each record's students learn.

    python -m tests.bench quality              drawn records and RS-KD at T = 1, paired seeds; only when it is named
    python -m tests.bench.quality WORK [--seeds 0 1 2] [--temperatures 1 2 4] [--only NAME …]

WORK keeps text, teacher and results: seeds that are done are not done again. Each seed is one pass of the teacher over
text that it was not trained on; all students of the seed start from the same weights and see the same batches in the
same order, each with its record's targets, forward KL at T (times T²) and nothing else; "cross-entropy" sees labels
alone. Sampled records are drawn anew in each seed.

What is compared are differences inside a seed, and their mean has a standard error: seeds differ by much more than
records do. How much more is a matter of the learning rate. At 4e-3, after 120 steps, one record's shares of the gap
between labels and the dense record lay 36 to 56% of it apart in three seeds; at 1e-3, after 150 steps, two draws of one
record from one start ended at most 1.4% apart. So small students take small steps, and the teacher's distribution over
2,048 classes is cheap enough for several seeds. What a record does to one step's gradient can be told far more closely
than what a run comes to, and stands beside it (quality_noise.py).
"""

import argparse
import json
import os
import tempfile
import time
from collections.abc import Callable, Sequence
from dataclasses import asdict, dataclass
from pathlib import Path
from typing import Any

import numpy as np
import torch
from torch import Tensor

from kdcache.losses.supervision import Supervision
from kdcache.losses.term import Term, make_term
from kdcache.losses.terms import LossTerms
from kdcache.targets.calibration import Encoder, make_basis
from kdcache.targets.coded import Coded
from kdcache.targets.compress import compress, compress_to_arrays
from kdcache.targets.dense import Dense
from kdcache.targets.drawn import Drawn
from kdcache.targets.factored import Factored
from kdcache.targets.fields import Field
from kdcache.targets.kind import RecordKind
from kdcache.targets.output_layer import OutputLayer
from kdcache.targets.record import TeacherTargets
from kdcache.targets.sampled import Sampled
from kdcache.targets.top_k import TopK
from tests.bench.multinomial import Multinomial
from tests.bench.part import Part
from tests.bench.part import Rows as PartRows
from tests.bench.quality_noise import noise_and_bias
from tests.bench.shards import shard_bytes
from tests.bench.shares import HEADER, RS_KD, share_lines
from tests.bench.small_models import CLASSES, Learner, logits_of, make_student, make_teacher, make_text, scores
from tests.bench.tables import spread, table

LENGTH = 128
BATCH = 8
TEACHER_TOKENS = 614_400
SEEDS = list(range(4))
ONLY = ("drawn", "RS-KD")
"""What the part compares, besides labels and the dense record."""
EARLY = 60
"""Steps before the gradients whose noise is told."""
MEASURED = 4
"""Batches whose records are written to a shard, to count bytes."""
Arrays = dict[str, np.ndarray]


@dataclass(frozen=True)
class Rows:
    """A batch of teacher rows. keys_P3: seed, step and row."""

    logits_PV: Tensor
    hidden_PD: Tensor
    keys_P3: np.ndarray


@dataclass(frozen=True)
class Setting:
    """What students are fed with. make: None for labels alone. temperatures: None for all asked for."""

    name: str
    make: Callable[[Rows], tuple[Arrays, TeacherTargets]] | None = None
    fields: tuple[Field, ...] = ()
    temperatures: tuple[float, ...] | None = None

    def at(self, temperatures: list[float]) -> list[float] | list[None]:
        """What its students are trained at: labels have no temperature."""
        if self.make is None:
            return [None]
        return [t for t in temperatures if self.temperatures is None or t in self.temperatures]


def _without_labels(fields: list[Field]) -> list[Field]:
    return [field for field in fields if field.name != "label_logits"]


def of_spec(name: str, spec: RecordKind) -> Setting:
    def make(rows: Rows) -> tuple[Arrays, TeacherTargets]:
        arrays = compress_to_arrays(rows.logits_PV, spec, rows.keys_P3)
        return arrays, Coded.of(spec, arrays, CLASSES).targets()

    only = None if spec.answers(2.0) else (1.0,)
    return Setting(name, make, tuple(_without_labels(spec.fields(CLASSES))), only)


def of_factor(name: str, rank: int | str, encoder: Encoder, samples: int = 0) -> Setting:
    spec = Factored(rank=rank, samples=samples)
    basis = encoder.basis

    def make(rows: Rows) -> tuple[Arrays, TeacherTargets]:
        arrays = compress_to_arrays(rows.logits_PV, spec, rows.keys_P3, None, rows.hidden_PD, encoder)
        return arrays, Coded.of(spec, arrays, CLASSES, basis).targets()

    return Setting(name, make, tuple(_without_labels(spec.fields(CLASSES, rank=basis.rank))))


def of_multinomial(name: str, draws: int, temperatures: list[float]) -> Setting:
    def make(rows: Rows) -> tuple[Arrays, TeacherTargets]:
        generator = torch.Generator().manual_seed(int(rows.keys_P3[0, 0]) * 1_000_003 + int(rows.keys_P3[0, 1]))
        drawn = Multinomial.drawn(rows.logits_PV, draws, generator)
        return drawn.arrays(CLASSES, by_id=True), drawn.targets(rows.logits_PV, tuple(temperatures))

    return Setting(name, make, tuple(Multinomial.fields(CLASSES)))


def encoders(teacher: Any, windows: Tensor) -> dict[int | str, Encoder]:
    """Of bases calibrated on the first windows that the students see, as a dump does."""
    layer = OutputLayer(teacher.lm_head.weight)
    with torch.no_grad():
        hidden = teacher.model(input_ids=windows[: 4096 // LENGTH, :-1], use_cache=False).last_hidden_state
    return {rank: Encoder(make_basis(layer, hidden.flatten(0, 1), rank), layer) for rank in (16, 64, "full")}


def settings(temperatures: list[float], factors: dict[int | str, Encoder]) -> list[Setting]:
    return [
        Setting("cross-entropy"),
        of_spec("dense", Dense(logit_dtype="uint16")),
        of_spec("top-12, renormalised", TopK(k=12, tail="renormalise")),
        of_multinomial(RS_KD, 50, temperatures),
        of_spec("drawn, 20 samples", Drawn(samples=20)),
        of_spec("drawn, the default (32)", Drawn()),
        of_spec("drawn, 42 samples", Drawn(samples=42)),
        of_spec("default", Sampled()),
        *(of_factor(f"factored, rank {rank}", rank, encoder) for rank, encoder in factors.items()),
    ]


def measured(words: Sequence[str] | None = None) -> list[dict[str, Any]]:
    """Results of the seeds asked for, those that were there and new ones; words: of the command line, by default its
    own.
    """
    parser = argparse.ArgumentParser()
    parser.add_argument("work", type=Path)
    parser.add_argument("--seeds", type=int, nargs="+", default=SEEDS)
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--only", nargs="+", help="settings whose names begin so, besides cross-entropy and dense")
    for name, default in {"teacher_tokens": TEACHER_TOKENS, "tokens": 409_600, "heldout": 20_480, "threads": 1}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=2e-3, help="the students' learning rate")
    options = parser.parse_args(words)
    torch.set_num_threads(options.threads)
    options.work.mkdir(parents=True, exist_ok=True)
    text = make_text(options.work, LENGTH)
    first = options.teacher_tokens // LENGTH
    teacher = make_teacher(options.work, text.train[:first], BATCH)
    windows = text.train[first : first + options.tokens // LENGTH]
    heldout = text.heldout[: options.heldout // LENGTH]
    teacher_PV = logits_of(teacher, heldout)
    exact = compress(teacher_PV, Dense(logit_dtype="float32"))
    supervision = Supervision(heldout[:, 1:].flatten(), exact)
    own = scores(teacher_PV, supervision, options.temperatures)
    print(f"{len(text.train) * LENGTH} tokens; teacher: loss {own.loss:.3f}, ECE {own.ece:.3f}", flush=True)
    always = ("cross-entropy", "dense")
    chosen = [
        setting
        for setting in settings(options.temperatures, encoders(teacher, windows))
        if not options.only or setting.name.startswith((*always, *options.only))
    ]
    path = options.work / f"results-{CLASSES}-{options.tokens}-{options.rate:g}.jsonl"
    for seed in options.seeds:
        done = {(r["setting"], r["temperature"]) for r in read(path) if r["seed"] == seed}
        started = time.perf_counter()
        learners, sizes = run_seed(seed, teacher, windows, chosen, options.temperatures, done, options.rate)
        lines = []
        for (name, temperature), learner in learners.items():
            found = scores(logits_of(learner.model, heldout), supervision, options.temperatures)
            lines.append(
                {"setting": name, "temperature": temperature, "seed": seed, "bytes": sizes[name], **asdict(found)}
            )
        with path.open("a") as file:
            file.writelines(json.dumps(line) + "\n" for line in lines)
        print(f"seed {seed}: {len(lines)} students in {time.perf_counter() - started:.0f} s", flush=True)
    return [line for line in read(path) if line["seed"] in options.seeds]


def run_seed(
    seed: int,
    teacher: Any,
    windows: Tensor,
    chosen: list[Setting],
    temperatures: list[float],
    done: set[tuple[str, float | None]],
    rate: float,
) -> tuple[dict[tuple[str, float | None], Learner], dict[str, float]]:
    """One pass of the teacher that feeds every student not done yet; the students, and each setting's bytes."""
    steps = len(windows) // BATCH
    learners = {
        (setting.name, temperature): Learner(make_student(seed), LossTerms([term(temperature)], CLASSES), steps, rate)
        for setting in chosen
        for temperature in setting.at(temperatures)
        if (setting.name, temperature) not in done
    }
    if not learners:
        return {}, {}
    measured: dict[str, list[Arrays]] = {setting.name: [] for setting in chosen}
    order = torch.randperm(len(windows), generator=torch.Generator().manual_seed(seed))
    for step, batch in enumerate(order[: steps * BATCH].split(BATCH)):
        tokens = windows[batch]
        rows = teacher_rows(teacher, tokens, seed, step)
        for setting in chosen:
            fed = [t for t in setting.at(temperatures) if (setting.name, t) in learners]
            if not fed:
                continue
            targets = None
            if setting.make is not None:
                arrays, targets = setting.make(rows)
                if step < MEASURED:
                    measured[setting.name].append(arrays)
            supervision = Supervision(tokens[:, 1:].flatten(), targets)
            for temperature in fed:
                learners[setting.name, temperature].step(tokens, supervision)
        if step % 50 == 0:
            print(f"seed {seed}, step {step} of {steps}", flush=True)
    return learners, {setting.name: record_bytes(setting, measured[setting.name]) for setting in chosen}


def noise(work: Path, batches: int, draws: int, teacher_tokens: int) -> list[dict[str, Any]]:
    """Of each sampled record of the part, for each batch: that of a gradient early in training; kept in the folder."""
    path = work / f"noise-{CLASSES}-{teacher_tokens}-{batches}-{draws}.jsonl"
    if path.exists():
        return read(path)
    text = make_text(work, LENGTH)
    first = teacher_tokens // LENGTH
    teacher = make_teacher(work, text.train[:first], BATCH)
    windows = text.train[first:].split(BATCH)
    learner = Learner(make_student(0), LossTerms([term(1.0)], CLASSES), 400, 2e-3)

    def exact(rows: Rows) -> TeacherTargets:
        return compress(rows.logits_PV, Dense(logit_dtype="float32"))

    for step, tokens in enumerate(windows[:EARLY]):
        learner.step(tokens, Supervision(tokens[:, 1:].flatten(), exact(teacher_rows(teacher, tokens, 0, step))))
    lines = []
    for batch, tokens in enumerate(windows[EARLY : EARLY + batches]):
        rows = teacher_rows(teacher, tokens, 0, batch)
        for setting in settings([1.0], {}):
            if setting.make is None or not setting.name.startswith(ONLY):
                continue

            def drawn(number: int, make: Any = setting.make, rows: Rows = rows) -> TeacherTargets:
                keys_P3 = rows.keys_P3 + np.array([1000 + number, 0, 0])
                targets: TeacherTargets = make(Rows(rows.logits_PV, rows.hidden_PD, keys_P3))[1]
                return targets

            found, bias = noise_and_bias(learner, tokens, exact(rows), drawn, draws)
            lines.append({"setting": setting.name, "batch": batch, "noise": found, "bias": bias})
    path.write_text("".join(json.dumps(line) + "\n" for line in lines))
    return lines


def term(temperature: float | None) -> Term:
    if temperature is None:
        return make_term(name="cross_entropy")
    return make_term(name="divergence", temperature=temperature)


@torch.no_grad()
def teacher_rows(teacher: Any, tokens: Tensor, seed: int, step: int) -> Rows:
    hidden_PD = teacher.model(input_ids=tokens[:, :-1], use_cache=False).last_hidden_state.flatten(0, 1)
    keys = np.stack([np.full(len(hidden_PD), seed), np.full(len(hidden_PD), step), np.arange(len(hidden_PD))], 1)
    return Rows(teacher.lm_head(hidden_PD), hidden_PD, keys)


def record_bytes(setting: Setting, measured: list[Arrays]) -> float:
    if not measured:
        return 0.0
    arrays = {name: np.concatenate([batch[name] for batch in measured]) for name in measured[0]}
    zarr, *_ = shard_bytes(setting.fields, arrays, LENGTH)
    return sum(size for name, size in zarr.items() if name in arrays)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(quick: bool) -> PartRows:
    words = ["--temperatures", "1", "--only", *ONLY]
    if quick:
        with tempfile.TemporaryDirectory() as name:
            sizes = ["--teacher-tokens", "40960", "--tokens", "40960", "--heldout", "4096"]
            results = measured([name, "--seeds", "0", *words, *sizes])
            return {"results": results, "noise": noise(Path(name), 1, 2, 40_960)}
    work = Path(os.environ.get("KDCACHE_HOME", Path.home() / ".cache" / "kdcache")) / "bench-quality"
    return {"results": measured([str(work), *words]), "noise": noise(work, 3, 8, TEACHER_TOKENS)}


def render(rows: PartRows) -> str:
    seeds = len({result["seed"] for result in rows["results"]})
    return (
        f"A teacher of .9M parameters over {CLASSES:,} classes teaches students of .2M for 400 steps of 1,024 "
        "positions, over text that it was not trained on, with forward KL at T and no labels beside it. "
        f"{seeds} seeds; all students of a seed have one start and one order of batches, so that differences are "
        "means of those inside a seed, in nats on held-out text, ± their standard error. The share is of the gap in "
        "KL between labels alone and the dense record. Bytes are of a record in a Zarr shard, the file's structure "
        "not counted. Seeds that are in ~/.cache/kdcache/bench-quality are not done again, so the time above may be "
        "of a part of them; one takes about 3 minutes of CPU.\n\n"
        + table(HEADER, share_lines(rows["results"]))
        + f"\n\nThe gradient of a student's parameters in one step, {EARLY} steps after the start, from the dense "
        "record's: relative squared error, noise and bias apart, means over batches, each drawn several times; in "
        "brackets the least and the greatest ratio of a batch.\n\n"
        + table(["record", "noise", "of RS-KD's noise", "bias"], noise_lines(rows["noise"]))
    )


def noise_lines(found: list[dict[str, Any]]) -> list[list[str]]:
    of_rs_kd = {line["batch"]: line["noise"] for line in found if line["setting"] == RS_KD}
    lines = []
    for setting in dict.fromkeys(line["setting"] for line in found):
        own = [line for line in found if line["setting"] == setting]
        ratios = [line["noise"] / of_rs_kd[line["batch"]] for line in own]
        means = {key: float(np.mean([line[key] for line in own])) for key in ("noise", "bias")}
        mean = float(np.mean(ratios))
        lines.append(
            [setting, f"{means['noise']:.4f}", spread((mean, min(ratios), max(ratios))), f"{means['bias']:.5f}"]
        )
    return lines


PART = Part(
    name="quality", title="Records: what students learn from them", minutes=16, run=run, render=render, usual=False
)

if __name__ == "__main__":
    print(table(HEADER, share_lines(measured())))
