"""Bytes and gradient noise of records of a real teacher: what each costs on disk and what it does to a loss.

    PYTHONPATH=tests python tests/bench/records.py TEACHER [--windows 16] [--length 256] [--draws 3] [--threads 2]

TEACHER is a folder, such as `python launch/fetch_smollm2.py` prints. Text: Python's reference documentation.

MSE: Σ ‖g − g_dense‖² / Σ ‖g_dense‖² over rows and draws, g the gradient of the forward KL by the logits of a student
that knows how frequent each token is and no more. Nearer to the teacher g_dense shrinks and noise does not. The error
of a sample is noise, another one at every position; that of a top-k record is bias, which adds up over positions, and
a student of token frequencies happens to spread a ghost's mass well.

SmolLM2-135M, 4,096 positions in one shard, 2026-11-24 (bytes of the first and the fourth row: 6,144 positions):

    record                          entries   Zarr B  Arrow B   MSE T = 1   MSE T = 2   MSE T = 4
    default                            14.1     65.8     75.5      0.0248        17.3    1.79e+04
      horvitz_thompson                                             0.0247         378    2.55e+06
    default, uint8                     14.1     62.6     70.9      0.0248        17.3     1.8e+04
    T = 1 profile                       9.8     34.5     39.7      0.0356           -           -
      horvitz_thompson                                             0.0355           -           -
    multinomial 50, by count           16.1     32.5     37.8      0.0388        11.5    1.29e+04
    multinomial 50, by id              16.1     31.9     35.7           -           -           -
    top-12, ghost                      12.0     61.8     69.8     0.00284      0.0158       0.645
    top-12, renormalise                12.0     55.4     60.5      0.0467        6.15    3.07e+03
    top-50, ghost                      50.0    170.7    199.9    0.000657     0.00702       0.554
    top-50, renormalise                50.0    165.3    192.2     0.00952        2.35         812

What each byte is for (Zarr; Arrow has offsets for every list besides):

                       default   T = 1 profile   multinomial 50, by id
    ids                  22.61           16.15                   24.36
    logits / counts      19.48            8.13                    5.10
    curve                16.82            3.13                       -
    maximum               2.47            2.47                       -
    label_logits          1.64            1.64                       -
    entry_counts           .63             .62                     .74
    num_certain            .03             .40                       -
    layout                 .07             .07                     .08
    structure             2.09            1.92                    1.68   12 kB per shard, less the larger it is

The T = 1 profile has 8% less noise than the multinomial record from 39% fewer entries, in 8% more bytes: it knows
normaliser, entropy and raw logits, which the other does not. Its ids and the logits of certain entries, all that a
forward KL at T = 1 needs, are 20 of them. Class ids of a language model have 10.6 bits of entropy each and take 13: a
third fewer bytes than the other in all would leave 2 for everything but ids.
"""

import argparse
from collections.abc import Callable
from dataclasses import dataclass, field
from functools import partial
from pathlib import Path

import numpy as np
import torch
from multinomial import Multinomial
from real_rows import token_windows, windows_of_rows
from shards import Bytes, shard_bytes
from torch import Tensor

from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.targets.compress import compress_to_arrays
from kdcache.targets.curve_spec import CurveSpec
from kdcache.targets.fields import Field
from kdcache.targets.record import Estimator, TeacherTargets
from kdcache.targets.sampled import Sampled
from kdcache.targets.sparse import Sparse
from kdcache.targets.top_k import TopK

TEMPERATURES = (1.0, 2.0, 4.0)
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
    squares: dict[tuple[Estimator, float], float] = field(default_factory=dict)

    def arrays(self) -> Arrays:
        return {name: np.concatenate([arrays[name] for arrays in self.stored]) for name in self.stored[0]}


def of_spec(
    spec: Sparse, logits_PV: Tensor, labels_P: np.ndarray, window: int, draw: int
) -> tuple[Arrays, TeacherTargets]:
    P, V = logits_PV.shape
    arrays = compress_to_arrays(logits_PV, spec, [[draw, window, p] for p in range(P)], labels_P)
    return arrays, spec.decode(arrays, V)


def multinomial(
    draws: int, by_id: bool, logits_PV: Tensor, labels_P: np.ndarray, window: int, draw: int
) -> tuple[Arrays, TeacherTargets]:
    generator = torch.Generator().manual_seed(1000 * window + draw)
    drawn = Multinomial.drawn(logits_PV, draws, generator)
    return drawn.arrays(logits_PV.shape[1], by_id=by_id), drawn.targets(logits_PV, TEMPERATURES)


def records(V: int) -> list[Record]:
    def ours(name: str, spec: Sparse, *estimators: Estimator) -> Record:
        fields = spec.fields(V)
        temperatures = TEMPERATURES if spec.curve.interpolates else spec.curve.at_temperatures
        make = partial(of_spec, spec)
        return Record(name, fields, make, estimators or ("normalised",), temperatures, sampled=spec.plan.samples > 0)

    def theirs(name: str, by_id: bool, temperatures: tuple[float, ...]) -> Record:
        make = partial(multinomial, 50, by_id)
        return Record(name, Multinomial.fields(V), make, ("normalised",), temperatures)

    at_one = Sampled(exact_top_k=0, samples=21, curve=CurveSpec(temperatures=(1.0,)))
    return [
        ours("default", Sampled(), "normalised", "horvitz_thompson"),
        ours("default, uint8", Sampled(logit_dtype="uint8")),
        ours("T = 1 profile", at_one, "normalised", "horvitz_thompson"),
        ours("T = 1 profile, uint8", at_one.model_copy(update={"logit_dtype": "uint8"})),
        ours("T = 1 profile, 25 samples", at_one.model_copy(update={"samples": 25})),
        theirs("multinomial 50, by count", False, TEMPERATURES),
        theirs("multinomial 50, by id", True, ()),
        *(
            ours(f"top-{k}, {tail}", TopK(k=k, tail=tail, curve=curve))
            for k in (12, 50)
            for tail, curve in (("ghost", CurveSpec()), ("renormalise", CurveSpec(temperatures=TEMPERATURES)))
        ),
    ]


def main() -> None:
    parser = argparse.ArgumentParser()
    parser.add_argument("teacher", type=Path)
    for name, default in {"windows": 16, "length": 256, "draws": 3, "threads": 2}.items():
        parser.add_argument(f"--{name}", type=int, default=default)
    options = parser.parse_args()
    torch.set_num_threads(options.threads)
    shape = options.windows, options.length + 1
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
                    squares = [
                        gradient(student_V, targets, temperature, estimator).sub_(exact_PV).square_().sum().item()
                        for _, targets in draws
                    ]
                    key = estimator, temperature
                    record.squares[key] = record.squares.get(key, 0.0) + sum(squares) / len(squares)
        print(
            f"\rwindow {window + 1} of {options.windows}", end="\n" if window + 1 == options.windows else "", flush=True
        )
    report(found, dense, options.length)


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
    sizes: dict[str, tuple[Bytes, Bytes]] = {}
    header = "".join(f"{f'MSE T = {temperature:g}':>12}" for temperature in TEMPERATURES)
    print(f"{'record':<30}{'entries':>9}{'Zarr B':>9}{'Arrow B':>9}{header}")
    for record in found:
        arrays = record.arrays()
        counts = arrays["entry_counts"]
        zarr, arrow = sizes[record.name] = shard_bytes(record.fields, arrays, length)
        for estimator in record.estimators:
            errors = "".join(
                f"{record.squares[estimator, temperature] / dense[temperature]:12.3g}"
                if temperature in record.temperatures
                else f"{'-':>12}"
                for temperature in TEMPERATURES
            )
            name = record.name if estimator == "normalised" else "  horvitz_thompson"
            numbers = f"{counts.mean():9.1f}{sum(zarr.values()):9.1f}{sum(arrow.values()):9.1f}"
            print(f"{name:<30}{numbers if estimator == 'normalised' else ' ' * 27}{errors}")
    print(f"\n{len(counts)} positions in one shard; bytes per position by array, Zarr / Arrow")
    for name, (zarr, arrow) in sizes.items():
        print(f"\n{name}")
        for array in zarr | arrow:
            print(f"    {array:<18}{zarr.get(array, 0.0):7.2f}{arrow.get(array, 0.0):7.2f}")


if __name__ == "__main__":
    main()
