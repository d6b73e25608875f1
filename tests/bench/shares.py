"""What students of each record learned, as a table of differences inside a seed: from the dense record and from RS-KD.

Students of one seed share their start, their batches and the order of these, so that a difference between two records
is a figure of each seed, and its mean over seeds has a standard error: the figures' standard deviation over √seeds. A
share is of the gap between "cross-entropy" and "dense" at the same T, a ratio of two means; its standard error is that
of the ratio's first-order expansion (Cochran 1977, Sampling Techniques, chapter 6). – where there is no such figure: of
one seed, or where dense is no better than labels.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["HEADER", "RS_KD", "Result", "share_lines"]

Result = dict[str, Any]
"""Of one student: setting, temperature (None for labels), seed, bytes, kl by T, loss, ece."""
Seeds = dict[int, float]
LABELS, DENSE, RS_KD = "cross-entropy", "dense", "RS-KD, 50 draws"
HEADER = (
    "record",
    "T",
    "bytes per position",
    "KL to the teacher",
    "above dense",
    "above RS-KD",
    "share of the gap",
    "held-out loss",
    "above dense",
    "above RS-KD",
    "ECE",
)


def share_lines(results: Sequence[Result]) -> list[list[str]]:
    """A line for each record and temperature."""
    lines = []
    for temperature in sorted({t for r in results for t in map(float, r["kl"])}):
        for setting in dict.fromkeys(r["setting"] for r in results):
            size, ece = (_by_seed(results, setting, temperature, lambda r, k=key: r[k]) for key in ("bytes", "ece"))
            if size:
                kl = _compared(results, setting, temperature, lambda r, key=str(temperature): r["kl"][key])
                loss = _compared(results, setting, temperature, lambda r: r["loss"])
                lines.append([setting, f"{temperature:g}", f"{_mean(size):,.1f}", *kl, *loss[:3], f"{_mean(ece):.3f}"])
    return lines


def _by_seed(results: Sequence[Result], setting: str, temperature: float, what: Callable[[Result], float]) -> Seeds:
    of_setting = [r for r in results if r["setting"] == setting and r["temperature"] in (temperature, None)]
    return {r["seed"]: what(r) for r in of_setting}


def _compared(
    results: Sequence[Result], setting: str, temperature: float, what: Callable[[Result], float]
) -> tuple[str, str, str, str]:
    """The mean, the differences from dense and from RS-KD, and the share."""
    own, labels, dense, rs_kd = (_by_seed(results, name, temperature, what) for name in (setting, LABELS, DENSE, RS_KD))
    return f"{_mean(own):.3f}", _difference(own, dense), _difference(own, rs_kd), _share(own, labels, dense)


def _difference(own: Seeds, other: Seeds) -> str:
    each = [own[seed] - other[seed] for seed in own.keys() & other.keys()]
    return "–" if own == other or len(each) < 2 else f"{statistics.mean(each):+.4f} ± {_error(each):.4f}"


def _share(own: Seeds, labels: Seeds, dense: Seeds) -> str:
    seeds = own.keys() & labels.keys() & dense.keys()
    gap = statistics.mean(labels[seed] - dense[seed] for seed in seeds) if seeds else 0.0
    if gap <= 0 or len(seeds) < 2:
        return "–"
    share = statistics.mean(labels[seed] - own[seed] for seed in seeds) / gap
    off = [(labels[seed] - own[seed] - share * (labels[seed] - dense[seed])) / gap for seed in seeds]
    return f"{share:.1%} ± {_error(off):.1%}"


def _mean(of_seeds: Seeds) -> float:
    return statistics.mean(of_seeds.values())


def _error(each: Sequence[float]) -> float:
    """The standard error of their mean."""
    return statistics.stdev(each) / len(each) ** 0.5
