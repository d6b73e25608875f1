"""Quality: one teacher, one student size, equal steps, and what each record's students learn.

    python -m tests.bench quality              drawn records and RS-KD at T = 1, three seeds; only when it is named
    python -m tests.bench.quality WORK [--seeds 0 1 2] [--temperatures 1 2 4] [--only NAME …]

WORK keeps text, teacher and results: seeds that are done are not done again. Each seed is one pass of the teacher over
text that it was not trained on; all students of the seed start from the same weights and see the same batches, each
with its record's targets, forward KL at T (times T²) and nothing else; "cross-entropy" sees labels alone.

KL: to the teacher at the T of the training, loss: cross-entropy, nats on held-out text, mean over seeds ± their
standard deviation. share: of the gap between cross-entropy-only and dense at the same T, how much is closed, and in
brackets each seed's, least first; – where dense is no better. ECE: expected calibration error. bytes: of a record in a
Zarr shard, per position, the file's structure not counted.

Three seeds, 2026-11-25, before drawn records
(33 minutes per seed on one of two busy cores; teacher 2.623 nats, ECE .029, made in 4 minutes):

                          T  bytes  KL            share, %                    loss          share, %              ECE
    cross-entropy         1    0.0  0.595 ± 0.136 0% (0 0 0)                  3.156 ± 0.196 0% (0 0 0)            0.061
    dense                 1 5434.4  0.161 ± 0.019 100% (100 100 100)          2.864 ± 0.034 100% (100 100 100)    0.041
    top-12, renormalised  1   48.1  1.054 ± 0.010 -106% (-149 -146 -52)       3.594 ± 0.017 -150% (-321 -241 -46) 0.066
    multinomial 50        1   41.7  0.185 ± 0.055 95% (89 99 100)             2.895 ± 0.082 90% (82 98 99)        0.042
    sampled at T = 1, 21  1   38.2  0.225 ± 0.098 85% (73 93 97)              2.949 ± 0.129 71% (59 80 91)        0.050
    default               1   72.8  0.168 ± 0.017 99% (96 99 100)             2.875 ± 0.030 96% (86 100 100)      0.043
    factored, rank 16     1   44.7  0.234 ± 0.047 83% (80 82 88)              3.015 ± 0.064 48% (29 35 62)        0.046
    factored, rank 64     1   66.9  0.171 ± 0.019 98% (97 97 98)              2.892 ± 0.031 90% (85 85 95)        0.042
    factored, rank full   1   98.9  0.171 ± 0.039 98% (94 99 101)             2.874 ± 0.057 96% (92 99 104)       0.039
    cross-entropy         2    0.0  0.257 ± 0.026 0% (0 0 0)                  3.156 ± 0.196 –                     0.061
    dense                 2 5434.4  0.128 ± 0.027 100% (100 100 100)          3.669 ± 0.206 –                     0.065
    top-12, renormalised  2   48.1  3.212 ± 0.042 -2287% (-2351 -2277 -2237)  5.313 ± 0.055 –                     0.150
    multinomial 50        2   41.7  0.292 ± 0.036 -28% (-36 -31 -16)          3.792 ± 0.487 –                     0.085
    default               2   72.8  0.288 ± 0.014 -24% (-34 -27 -12)          4.412 ± 0.071 –                     0.078
    factored, rank 16     2   44.7  0.132 ± 0.011 97% (79 89 123)             3.721 ± 0.089 –                     0.058
    factored, rank 64     2   66.9  0.125 ± 0.035 102% (84 100 123)           3.667 ± 0.265 –                     0.068
    factored, rank full   2   98.9  0.125 ± 0.020 102% (92 103 111)           3.666 ± 0.171 –                     0.072
    cross-entropy         4    0.0  0.069 ± 0.003 0% (0 0 0)                  3.156 ± 0.196 –                     0.061
    dense                 4 5434.4  0.028 ± 0.004 100% (100 100 100)          5.095 ± 0.295 –                     0.101
    top-12, renormalised  4   48.1  3.069 ± 0.071 -7460% (-8645 -7001 -6990)  9.155 ± 0.181 –                     0.298
    multinomial 50        4   41.7  0.369 ± 0.054 -747% (-852 -810 -596)      5.807 ± 0.227 –                     0.241
    default               4   72.8  0.207 ± 0.007 -345% (-392 -335 -318)      5.916 ± 0.112 –                     0.019
    factored, rank 16     4   44.7  0.035 ± 0.004 84% (78 85 91)              5.593 ± 0.273 –                     0.036
    factored, rank 64     4   66.9  0.027 ± 0.006 104% (88 106 123)           4.989 ± 0.507 –                     0.094
    factored, rank full   4   98.9  0.025 ± 0.004 108% (100 107 121)          4.876 ± 0.328 –                     0.087

One seed learns slowly whatever it is fed (labels 3.38, dense 2.90; the other two 3.02 and 3.07, 2.85 and 2.84): most of
the spread is its.

At T = 2 and 4 even the dense record's students have a higher label NLL than those on labels alone, with 120 steps
or 400, rates of 1.5e-3 or 4e-3, 8,192 classes or 4,096: what they are asked for, the KL at T, they learn. Beside
cross-entropy (dense record, one seed, labels alone 3.019): half of each 2.824, 3.019 and 3.675 at T = 1, 2 and 4; a
fifth of divergence 3.045 at T = 2, a tenth 3.022 at T = 4.
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
from tests.bench.shards import shard_bytes
from tests.bench.shares import HEADER, share_lines
from tests.bench.small_models import CLASSES, Learner, logits_of, make_student, make_teacher, make_text, scores
from tests.bench.tables import table

LENGTH = 128
BATCH = 8
ONLY = ("drawn", "multinomial")
"""What the part compares, besides labels and the dense record."""
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
        of_multinomial("multinomial 50", 50, temperatures),
        of_spec("drawn", Drawn()),
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
    parser.add_argument("--seeds", type=int, nargs="+", default=[0, 1, 2])
    parser.add_argument("--temperatures", type=float, nargs="+", default=[1.0, 2.0, 4.0])
    parser.add_argument("--only", nargs="+", help="settings whose names begin so, besides cross-entropy and dense")
    for name, default in {"teacher_tokens": 819_200, "tokens": 409_600, "heldout": 20_480, "threads": 2}.items():
        parser.add_argument(f"--{name.replace('_', '-')}", type=int, default=default)
    parser.add_argument("--rate", type=float, default=4e-3, help="the students' learning rate")
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
    path = options.work / f"results-{options.tokens}.jsonl"
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
    zarr, _ = shard_bytes(setting.fields, arrays, LENGTH)
    return sum(size for name, size in zarr.items() if name in arrays)


def read(path: Path) -> list[dict[str, Any]]:
    return [json.loads(line) for line in path.read_text().splitlines()] if path.exists() else []


def run(quick: bool) -> PartRows:
    if quick:
        with tempfile.TemporaryDirectory() as name:
            sizes = ["--teacher-tokens", "40960", "--tokens", "40960", "--heldout", "4096"]
            return {"results": measured([name, "--temperatures", "1", "--seeds", "0", "--only", *ONLY, *sizes])}
    home = Path(os.environ.get("KDCACHE_HOME", Path.home() / ".cache" / "kdcache"))
    return {"results": measured([str(home / "bench-quality"), "--temperatures", "1", "--only", *ONLY])}


def render(rows: PartRows) -> str:
    return (
        "A teacher of 2.6M parameters over 4,096 classes teaches students of .6M for 400 steps, over text that it was "
        "not trained on, with forward KL at T and no labels beside it. Share is how much of the gap between labels "
        "alone and the dense record is closed: the mean of the seeds, and in brackets each seed's. Bytes are of a "
        "record in a Zarr shard, the file's structure not counted. Seeds that are in ~/.cache/kdcache/bench-quality "
        "are not done again, so the time above may be of a part of them; one takes about 8 minutes.\n\n"
        + table(HEADER, share_lines(rows["results"]))
    )


PART = Part(
    name="quality", title="Records: what students learn from them", minutes=28, run=run, render=render, usual=False
)

if __name__ == "__main__":
    print(table(HEADER, share_lines(measured())))
