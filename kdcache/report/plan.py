"""`kdcache plan`: what a cache and the runs from it will cost, before anything is spent.

A plan is a list of figures. Each says its formula, and each number in a formula is an earlier figure or a constant that
says where it comes from: measured (by which file of tests/bench), cited (of what), assumed, or given by the user. This
file knows how a plan looks; kdcache.report.simulate has the figures of `--simulate`, from constants alone.
"""

import math
from collections.abc import Callable, Mapping, Sequence
from dataclasses import asdict, dataclass
from types import SimpleNamespace
from typing import Any, Literal

from kdcache.errors import ConfigError

__all__ = ["Constant", "Figure", "Plan", "amount", "made_plan", "render"]

Origin = Literal["measured", "cited", "assumed", "given"]
Unit = Literal["", "bytes", "bytes/s", "seconds", "tokens/s"]
SCALES = {"k": 1e3, "m": 1e6, "b": 1e9, "g": 1e9, "t": 1e12}


@dataclass(frozen=True)
class Constant:
    """A number that formulas use.

    Attributes:
        name: As formulas have it.
        value: In its unit.
        unit: Of the value; "" for counts and ratios.
        origin: Where it comes from.
        source: The file that measures it, what is cited, or why it is assumed.
        words: What it is, in a line.
        least: The least value that means anything.
    """

    name: str
    value: float
    unit: Unit
    origin: Origin
    source: str
    words: str
    least: float = 0.0


@dataclass(frozen=True)
class Figure:
    """A number of a plan.

    Attributes:
        name: As later formulas have it.
        unit: Of the value; "" for counts and ratios.
        formula: Of names, in Python's notation.
        compute: The same in code; it is given the names as attributes.
        words: What it is, in a line.
    """

    name: str
    unit: Unit
    formula: str
    compute: Callable[[Any], float]
    words: str


@dataclass(frozen=True)
class Plan:
    """figures: with their values. constants: as they were used."""

    figures: list[tuple[Figure, float]]
    constants: list[Constant]

    def facts(self) -> dict[str, Any]:
        """Ready for JSON."""
        return {
            "figures": [
                {"name": f.name, "value": value, "unit": f.unit, "formula": f.formula, "words": f.words}
                for f, value in self.figures
            ],
            "constants": [asdict(constant) for constant in self.constants],
        }


def made_plan(figures: Sequence[Figure], constants: Sequence[Constant], given: Mapping[str, float | None]) -> Plan:
    """The figures of these constants.

    Args:
        figures: In an order in which each formula's names are known.
        constants: With their defaults.
        given: Name of a constant -> another value; None leaves the default.

    Raises:
        ConfigError: A value means nothing.
    """
    used = [_given(constant, given.get(constant.name)) for constant in constants]
    known, values = SimpleNamespace(**{constant.name: constant.value for constant in used}), []
    for figure in figures:
        try:
            value = float(figure.compute(known))
        except (ZeroDivisionError, OverflowError):
            value = math.inf
        setattr(known, figure.name, value)
        values.append((figure, value))
    return Plan(values, used)


def _given(constant: Constant, value: float | None) -> Constant:
    if value is None:
        return constant
    if not (math.isfinite(value) and value >= constant.least and value > 0):
        expected = f"{constant.least:,g} or more" if constant.least else "more than 0"
        raise ConfigError(f"got --{constant.name.replace('_', '-')} {value:g}, expected a number of {expected}")
    return Constant(constant.name, value, constant.unit, "given", "on the command line", constant.words)


def amount(text: str) -> float:
    """ "100B" -> 1e11, "64M" -> 6.4e7, "0.5" -> 0.5. Raises ConfigError for what is no number."""
    word = text.strip().replace(",", "").replace("_", "")
    scale = SCALES.get(word[-1:].lower(), 1.0)
    try:
        return float(word[:-1] if scale > 1 else word) * scale
    except ValueError:
        raise ConfigError(f"got {text!r}, expected a number such as 512, 1e11, 100B or 64M") from None


def render(plan: Plan) -> str:
    """The figures, and then the constants, as a table for a person."""
    figures = [
        (figure.words, spoken(value, figure.unit), figure.name, figure.formula) for figure, value in plan.figures
    ]
    constants = [(c.words, spoken(c.value, c.unit), c.name, f"{c.origin}: {c.source}") for c in plan.constants]
    width, number, name = (max(len(row[i]) for row in figures + constants) for i in range(3))
    rows = [
        f"{words:<{width}}  {value:>{number}}  {key:<{name}}  {'= ' if part is figures else ''}{rest}"
        for part in (figures, constants)
        for words, value, key, rest in part
    ]
    return "\n".join([*rows[: len(figures)], "", "of these constants:", *rows[len(figures) :]])


def spoken(value: float, unit: Unit) -> str:
    """Such as 7.5 TB, 9.52 h, 25.6 MB/s or 100,000,000,000; infinity is "never"."""
    if not math.isfinite(value):
        return "never"
    if unit in ("bytes", "bytes/s"):
        size = next((i for i in (4, 3, 2, 1) if abs(value) >= 1000**i), 0)
        return f"{value / 1000**size:,.3g} {('B', 'kB', 'MB', 'GB', 'TB')[size]}{unit.removeprefix('bytes')}"
    if unit == "seconds":
        for long, word in ((86400.0, "days"), (3600.0, "h"), (60.0, "min")):
            if value >= 2 * long:
                return f"{value / long:,.3g} {word}"
        scale, word = next(((s, w) for s, w in ((1.0, "s"), (1e3, "ms")) if value * s >= 1), (1e6, "µs"))
        return f"{value * scale:.3g} {word}"
    number = f"{value:,.0f}" if value >= 1000 else f"{value:.4g}"
    return f"{number} tok/s" if unit == "tokens/s" else number
