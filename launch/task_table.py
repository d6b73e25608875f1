"""One table for each task: what `kdcache eval --json` found, runs that differ in their seed alone put together.

    python launch/task_table.py runs/tasks/spam/scores.json

Runs are called METHOD-SEED. Scores are means over seeds ± their standard deviation, in percent; "kept" is the share of
the teacher's score. The score is entity F1 where there is one, macro-F1 elsewhere.
"""

import json
import statistics
import sys
from pathlib import Path
from typing import Any

from kdcache.report.evaluate import aligned

Row = dict[str, Any]


def grouped(rows: list[Row]) -> dict[str, list[Row]]:
    """Method -> its runs, in the order they came."""
    groups: dict[str, list[Row]] = {}
    for row in rows:
        method, _, seed = row["name"].rpartition("-")
        groups.setdefault(method if seed.isdigit() else row["name"], []).append(row)
    return groups


def percent(rows: list[Row], key: str) -> str:
    values = [100 * row[key] for row in rows if row.get(key) is not None]
    if not values:
        return ""
    spread = f" ± {statistics.stdev(values):.1f}" if len(values) > 1 else ""
    return f"{statistics.mean(values):.1f}{spread}"


def mean(rows: list[Row], key: str) -> float:
    return statistics.mean(row[key] for row in rows if row.get(key) is not None)


def table(rows: list[Row]) -> list[list[str]]:
    score = "entity_f1" if rows[0].get("entity_f1") is not None else "macro_f1"
    title = "entity F1" if score == "entity_f1" else "macro-F1"
    lines = [["", title, "kept", "accuracy", "ECE", "agreement", "parameters", "MB", "ms", "examples/s"]]
    teacher = rows[0][score]
    for name, runs in grouped(rows).items():
        lines.append(
            [
                name,
                percent(runs, score),
                f"{mean(runs, score) / teacher:.1%}",
                percent(runs, "accuracy"),
                f"{mean(runs, 'ece'):.3f}",
                percent(runs, "agreement"),
                f"{runs[0]['parameters']:,}",
                f"{runs[0]['bytes'] / 1e6:.1f}",
                f"{mean(runs, 'milliseconds'):.2f}",
                f"{mean(runs, 'examples_per_second'):,.0f}",
            ]
        )
    return lines


if __name__ == "__main__":
    for path in sys.argv[1:]:
        print(aligned(table(json.loads(Path(path).read_text(encoding="utf-8")))))
