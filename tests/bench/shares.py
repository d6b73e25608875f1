"""What students of each record learned, as a table: how much of the gap between labels and the dense record is closed.

Means over seeds ± their standard deviation. A share is of the gap between "cross-entropy" and "dense" at the same T; in
brackets each seed's, least first; – where dense is no better.
"""

import statistics
from collections.abc import Callable, Sequence
from typing import Any

__all__ = ["HEADER", "share_lines"]

Result = dict[str, Any]
"""Of one student: setting, temperature (None for labels), seed, bytes, kl by T, loss, ece."""
HEADER = (
    "record",
    "T",
    "bytes per position",
    "KL to the teacher",
    "share of KL",
    "held-out loss",
    "share of loss",
    "ECE",
)


def share_lines(results: Sequence[Result]) -> list[list[str]]:
    """A line for each record and temperature."""
    lines = []
    for temperature in sorted({t for r in results for t in map(float, r["kl"])}):
        for setting in dict.fromkeys(r["setting"] for r in results):
            own = _by_seed(results, setting, temperature, lambda r: r)
            if own:
                size, ece = (statistics.mean(r[key] for r in own.values()) for key in ("bytes", "ece"))
                kl = _compared(results, setting, temperature, lambda r, key=str(temperature): r["kl"][key])
                loss = _compared(results, setting, temperature, lambda r: r["loss"])
                lines.append([setting, f"{temperature:g}", f"{size:,.1f}", *kl, *loss, f"{ece:.3f}"])
    return lines


def _by_seed(results: Sequence[Result], setting: str, temperature: float, what: Callable[[Result], Any]) -> Any:
    of_setting = [r for r in results if r["setting"] == setting and r["temperature"] in (temperature, None)]
    return {r["seed"]: what(r) for r in of_setting}


def _compared(
    results: Sequence[Result], setting: str, temperature: float, what: Callable[[Result], float]
) -> tuple[str, str]:
    values, labels, dense = (_by_seed(results, name, temperature, what) for name in (setting, "cross-entropy", "dense"))
    spread = statistics.stdev(values.values()) if len(values) > 1 else 0.0
    seeds = values.keys() & labels.keys() & dense.keys()
    gap = sum(labels[seed] - dense[seed] for seed in seeds)
    shares = "–"
    if gap > 0:
        mean = sum(labels[seed] - values[seed] for seed in seeds) / gap
        own = sorted((labels[seed] - values[seed]) / (labels[seed] - dense[seed]) for seed in seeds)
        shares = f"{mean:.0%} ({' '.join(f'{100 * share:.0f}' for share in own)})"
    return f"{statistics.mean(values.values()):.3f} ± {spread:.3f}", shares
