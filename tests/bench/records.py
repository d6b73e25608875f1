"""Bytes and gradient noise of records of a real teacher: what each costs on disk and what it does to a loss.

    PYTHONPATH=tests python tests/bench/records.py TEACHER [--windows 16] [--length 256] [--draws 3] [--threads 2]

TEACHER is a folder, such as `python launch/fetch_smollm2.py` prints. Text: Python's reference documentation.

Errors: ‖g − g_dense‖² / ‖g_dense‖² over rows, g the gradient of the forward KL by the logits of a student that knows
how frequent each token is and no more; noise is what differs between draws, bias what does not. Nearer to the teacher
g_dense shrinks and noise does not. Records are never ranked by the sum of the two: noise averages out over positions,
bias does not.

SmolLM2-135M, topics, 4,096 positions in one shard, 2026-11-24, before drawn records, noise and bias together:

    record                          entries   Zarr B  Arrow B    T = 1     T = 2      T = 4
    default                            14.1     65.8     75.5   0.0248      17.3   1.79e+04   noise
    sampled at T = 1, 21                9.8     34.5     39.7   0.0356         -          -   noise
    multinomial 50, by id              16.1     31.9     35.7   0.0388      11.5   1.29e+04   noise
    top-12, ghost                      12.0     61.8     69.8  0.00284    0.0158      0.645   bias
    top-12, renormalise                12.0     55.4     60.5   0.0467      6.15   3.07e+03   bias
    top-50, ghost                      50.0    170.7    199.9  0.00066   0.00702      0.554   bias
    top-50, renormalise                50.0    165.3    192.2  0.00952      2.35        812   bias

2,048 positions of other corpora, 2026-11-26, T = 1, bytes of the record alone (Zarr), without the entropy:

    record                      docstrings          films           messages
    drawn, 20 samples        18.4 B  .0309     27.1 B  .1163     27.8 B  .2576
    drawn, 24                20.6    .0242     29.1    .0932     32.1    .2059
    drawn, 32                24.9    .0169     36.0    .0655     40.2    .1436
    drawn, 40                28.9    .0126     44.8    .0496     47.6    .1091
    sampled at T = 1, 21     29.8    .0288     40.1    .1099     43.9    .2411
    multinomial 50, by id    28.3    .0310     44.8    .0892     49.0    .1787

Of 18.4 bytes (docstrings, 20 samples) ids take 14.35, shares 3.38, counts of entries .63; the entropy takes .9 more. Of
the multinomial's 28.3 ids take 22.75, counts 4.75 and counts of entries .74.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path
from typing import Literal

import numpy as np
import torch
from multinomial import Multinomial
from polynomial import PROFILES, Polynomial
from real_rows import CORPORA, token_windows, windows_of_rows
from shards import Bytes, shard_bytes
from torch import Tensor

from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.targets.coded import Coded
from kdcache.targets.compress import compress_to_arrays
from kdcache.targets.curve_spec import CurveSpec
from kdcache.targets.drawn import Drawn
from kdcache.targets.fields import Field
from kdcache.targets.record import Estimator, TeacherTargets
from kdcache.targets.sampled import Sampled
from kdcache.targets.sparse import Sparse
from kdcache.targets.top_k import TopK

TEMPERATURES = (1.0, 2.0, 4.0)
MISSING: dict[str, Literal["ghost", "renormalise"]] = {"zero": "renormalise", "uniform": "ghost"}
"""What DistillKit calls what stands for the classes that it did not keep."""
Arrays = dict[str, np.ndarray]
Make = Callable[[Tensor, np.ndarray, int, int], tuple[Arrays, TeacherTargets]]
"""(logits_PV, labels_P, window, draw) to what is stored and what a loss gets."""


@dataclass
class Record:
    name: str
    fields: list[Field]
    make: Make
    estimators: tuple[Estimator, ...] = ("normalised",)
    temperatures: tuple[float, ...] = TEMPERATURES
    sampled: bool = True
    stored: list[Arrays] = field(default_factory=list)
    noise: dict[tuple[Estimator, float], float] = field(default_factory=dict)
    bias: dict[tuple[Estimator, float], float] = field(default_factory=dict)

    def arrays(self) -> Arrays:
        return {name: np.concatenate([arrays[name] for arrays in self.stored]) for name in self.stored[0]}


def of_spec(
    spec: Sparse | Drawn, logits_PV: Tensor, labels_P: np.ndarray, window: int, draw: int
) -> tuple[Arrays, TeacherTargets]:
    P, V = logits_PV.shape
    arrays = compress_to_arrays(logits_PV, spec, [[draw, window, p] for p in range(P)], labels_P)
    return arrays, Coded.of(spec, arrays, V).targets()


def multinomial(
    draws: int, by_id: bool, logits_PV: Tensor, labels_P: np.ndarray, window: int, draw: int
) -> tuple[Arrays, TeacherTargets]:
    generator = torch.Generator().manual_seed(1000 * window + draw)
    drawn = Multinomial.drawn(logits_PV, draws, generator)
    return drawn.arrays(logits_PV.shape[1], by_id=by_id), drawn.targets(logits_PV, TEMPERATURES)


def polynomial(
    profile: Polynomial, tail: Literal["ghost", "renormalise"], logits_PV: Tensor, *_: object
) -> tuple[Arrays, TeacherTargets]:
    return profile.made(logits_PV, tail)


def records(V: int) -> list[Record]:
    def ours(name: str, spec: Sparse | Drawn, *estimators: Estimator) -> Record:
        fields = spec.fields(V)
        temperatures = tuple(temperature for temperature in TEMPERATURES if spec.answers(temperature))
        make = partial(of_spec, spec)
        return Record(name, fields, make, estimators or ("normalised",), temperatures, sampled=spec.plan.samples > 0)

    def theirs(name: str, by_id: bool, temperatures: tuple[float, ...]) -> Record:
        make = partial(multinomial, 50, by_id)
        return Record(name, Multinomial.fields(V), make, ("normalised",), temperatures)

    with_logits = Sampled(exact_top_k=0, samples=21, curve=CurveSpec(temperatures=(1.0,)))
    return [
        ours("default", Sampled(), "normalised", "horvitz_thompson"),
        ours("default, uint8", Sampled(logit_dtype="uint8")),
        ours("drawn", Drawn(), "normalised", "horvitz_thompson"),
        *(ours(f"drawn, {samples}, bare", Drawn(samples=samples, keep=())) for samples in (20, 24, 32, 40)),
        ours("sampled at T = 1, 21", with_logits),
        theirs("multinomial 50, by count", False, TEMPERATURES),
        theirs("multinomial 50, by id", True, ()),
        *(
            ours(f"top-{k}, {tail}", TopK(k=k, tail=tail, curve=curve))
            for k in (12, 50)
            for tail, curve in (("ghost", CurveSpec()), ("renormalise", CurveSpec(temperatures=TEMPERATURES)))
        ),
        *(
            Record(
                f"DistillKit, {name}, {missing}",
                profile.fields(V),
                partial(polynomial, profile, tail),
                temperatures=(1.0,),
                sampled=False,
            )
            for name, profile in PROFILES.items()
            for missing, tail in MISSING.items()
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("teacher", type=Path)
    parser.add_argument("--corpus", choices=CORPORA, default="topics")
    for name, default in {"windows": 16, "length": 256, "draws": 3, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape = options.windows, options.length + 1, options.corpus
    found: list[Record] = []
    dense = dict.fromkeys(TEMPERATURES, 0.0)
    for window, (tokens, logits_PV) in enumerate(windows_of_rows(options.teacher, *shape)):
        if not found:
            found = records(logits_PV.shape[1])
            student_V = frequencies(options.teacher, logits_PV.shape[1]).log()
        made = [
            [record.make(logits_PV, tokens[1:].numpy(), window, draw) for draw in range(options.draws)]
            if record.sampled
            else [record.make(logits_PV, tokens[1:].numpy(), window, 0)]
            for record in found
        ]
        for record, draws in zip(found, made, strict=True):
            record.stored.append(draws[0][0])
        for temperature in TEMPERATURES:
            exact_PV = student_V.div(temperature).softmax(-1) - (logits_PV / temperature).softmax(-1)
            dense[temperature] += exact_PV.square().sum().item()
            for record, draws in zip(found, made, strict=True):
                for estimator in record.estimators if temperature in record.temperatures else ():
                    errors = [
                        gradient(student_V, targets, temperature, estimator).sub_(exact_PV) for _, targets in draws
                    ]
                    key = estimator, temperature
                    for sums, square in zip((record.noise, record.bias), noise_and_bias(errors), strict=True):
                        sums[key] = sums.get(key, 0.0) + square
        print(
            f"\rwindow {window + 1} of {options.windows}", end="\n" if window + 1 == options.windows else "", flush=True
        )
    report(found, dense, options.length)


def noise_and_bias(errors: list[Tensor]) -> tuple[float, float]:
    """Squares of what differs from draw to draw, and of what is the same in all of them, unbiased estimates of both.

    errors: of the gradients of some draws [P, V] each; one for a record that draws nothing.
    """
    draws, mean_PV = len(errors), torch.stack(errors).mean(0)
    common = mean_PV.square().sum().item()
    if draws == 1:
        return 0.0, common
    noise = sum((error_PV - mean_PV).square().sum().item() for error_PV in errors) / (draws - 1)
    return noise, common - noise / draws


def frequencies(teacher: Path, V: int) -> Tensor:
    """Share of each token in the text, every class counted a tenth of a time more."""
    counts_V = token_windows(teacher, 1 << 10, 64).flatten().bincount(minlength=V) + 0.1
    return counts_V / counts_V.sum()


def gradient(student_V: Tensor, targets: TeacherTargets, temperature: float, estimator: Estimator) -> Tensor:
    """The training loss's own, by student logits / T."""
    term = make_term(name="divergence", temperature=temperature, temperature_squared=False, estimator=estimator)
    gradient_PV = student_V.repeat(targets.num_positions, 1)
    labels_P = torch.zeros(targets.num_positions, dtype=torch.int64)
    LossTerms([term], len(student_V)).value_and_gradient_(gradient_PV, Supervision(labels_P, targets))
    return gradient_PV.mul_(temperature)


def report(found: list[Record], dense: dict[float, float], length: int) -> None:
    sizes: dict[str, tuple[Bytes, Bytes, Bytes]] = {}
    header = "".join(f"{f'noise T = {temperature:g}':>14}{'bias':>10}" for temperature in TEMPERATURES)
    print(f"{'record':<30}{'entries':>9}{'Zarr B':>9}{'Arrow B':>9}{'Parquet B':>11}{header}")
    for record in found:
        arrays = record.arrays()
        entries = arrays["entry_counts"].mean() if "entry_counts" in arrays else arrays["ids"].shape[1]
        positions = len(arrays[record.fields[0].name]) if "entry_counts" not in arrays else len(arrays["entry_counts"])
        zarr, arrow, parquet = sizes[record.name] = shard_bytes(record.fields, arrays, length)
        for estimator in record.estimators:
            errors = "".join(
                f"{record.noise[estimator, temperature] / dense[temperature]:14.3g}"
                f"{max(record.bias[estimator, temperature], 0.0) / dense[temperature]:10.2g}"
                if temperature in record.temperatures
                else f"{'-':>14}{'-':>10}"
                for temperature in TEMPERATURES
            )
            name = record.name if estimator == "normalised" else "  horvitz_thompson"
            numbers = f"{entries:9.1f}{sum(zarr.values()):9.1f}{sum(arrow.values()):9.1f}{sum(parquet.values()):11.1f}"
            print(f"{name:<30}{numbers if estimator == 'normalised' else ' ' * 38}{errors}")
    print(f"\n{positions} positions in one shard; bytes per position by array, Zarr / Arrow / Parquet")
    for name, (zarr, arrow, parquet) in sizes.items():
        print(f"\n{name}")
        for array in zarr | arrow | parquet:
            print(
                f"    {array:<18}{zarr.get(array, 0.0):7.2f}{arrow.get(array, 0.0):7.2f}{parquet.get(array, 0.0):7.2f}"
            )


if __name__ == "__main__":
    main()
