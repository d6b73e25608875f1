"""`kdcache plan --simulate`: each figure is what its formula says, and each constant says where it comes from."""

import json
import math
import re
import sys
from pathlib import Path

import pytest
from helpers import kdcache

from kdcache.errors import ConfigError
from kdcache.report.plan import amount, spoken
from kdcache.report.simulate import CONSTANTS, FIGURES, simulated

BENCHES = Path(__file__).parents[1] / "bench"


def values(**given: float) -> dict[str, float]:
    return {figure.name: value for figure, value in simulated(given).figures}


def test_a_figure_is_what_its_formula_says() -> None:
    for given in ({}, {"gpus": 7, "tokens": 3e6, "epochs": 4, "teacher_rate": 900}):
        plan = simulated(given)
        known: dict[str, object] = {"ceil": math.ceil, "min": min, "max": max, "__builtins__": {}}
        known |= {constant.name: constant.value for constant in plan.constants}
        for figure, value in plan.figures:
            assert eval(figure.formula, known) == pytest.approx(value), figure.name
            known[figure.name] = value


def test_a_constant_says_where_it_comes_from() -> None:
    names = [constant.name for constant in CONSTANTS] + [figure.name for figure in FIGURES]
    assert len({*names}) == len(names)
    for constant in CONSTANTS:
        assert constant.source
        assert constant.origin in ("measured", "cited", "assumed")
        for file in re.findall(r"tests/bench/(\w+\.py)", constant.source):
            assert (BENCHES / file).is_file(), constant.name
        used = [figure for figure in FIGURES if re.search(rf"\b{constant.name}\b", figure.formula)]
        assert used, f"{constant.name} is in no formula"
    given = {constant.name: constant.origin for constant in simulated({"gpus": 8}).constants}
    assert given["gpus"] == "given"


def test_figures_move_as_they_must() -> None:
    usual, more = values(), values(gpus=1024)
    assert more["dump_seconds"] == pytest.approx(usual["dump_seconds"] / 2)
    assert more["cache_bytes"] == usual["cache_bytes"] == 100e9 * 75
    assert values(epochs=4)["break_even"] == pytest.approx(usual["break_even"] / 4)
    assert 1 < usual["read_amplification"] < 1.05
    assert values(teacher_rate=1e6, student_rate=1e3)["break_even"] == math.inf, "a teacher that costs next to nothing"


def test_bad_numbers_are_refused_in_a_line() -> None:
    with pytest.raises(ConfigError, match=r"got --gpus 0\.5, expected a number of 1 or more"):
        simulated({"gpus": 0.5})
    with pytest.raises(ConfigError, match="got --tokens -1, expected"):
        simulated({"tokens": -1.0})
    for bad in (math.nan, math.inf, 0.0):
        with pytest.raises(ConfigError, match="got --disk-rate"):
            simulated({"disk_rate": bad})
    with pytest.raises(ConfigError, match="expected a number such as 512, 1e11, 100B or 64M"):
        amount("many")


@pytest.mark.parametrize(
    ("text", "value"), [("100B", 1e11), ("64M", 6.4e7), ("1e11", 1e11), ("2.5k", 2500), ("1_000", 1e3)]
)
def test_amounts(text: str, value: float) -> None:
    assert amount(text) == value


@pytest.mark.parametrize(
    ("value", "unit", "words"),
    [
        (7.5e12, "bytes", "7.5 TB"),
        (2.56e7, "bytes/s", "25.6 MB/s"),
        (34272.0, "seconds", "9.52 h"),
        (3e-5, "seconds", "30 µs"),
        (math.inf, "", "never"),
    ],
)
def test_spoken(value: float, unit: str, words: str) -> None:
    assert spoken(value, unit) == words  # type: ignore[arg-type]


def test_the_command() -> None:
    done = kdcache("plan", "--simulate", "--tokens", "1B", "--gpus", "8", "--json")
    assert done.returncode == 0, done.stderr
    facts = json.loads(done.stdout)
    found = {figure["name"]: figure for figure in facts["figures"]}
    assert found["cache_bytes"]["value"] == 75e9
    assert found["cache_bytes"]["formula"] == "tokens * (record_bytes + token_bytes)"
    table = kdcache("plan", "--simulate").stdout
    assert "bytes of the cache" in table
    assert "measured: tests/bench/records.py" in table
    assert "--teacher-rate" in (text := kdcache("plan", "--help").stdout)
    assert "[6,000 tok/s, assumed: 2 x 32B FLOP" in " ".join(text.split())
    for words, line in (
        (["--simulate", "--tokens", "many"], "got 'many', expected a number such as"),
        (["--simulate", "--gpus", "0"], "got --gpus 0, expected"),
        ([], "expected --simulate"),
    ):
        done = kdcache("plan", *words)
        assert done.returncode == 2
        assert line in done.stderr
        assert done.stderr.count("\n") == 1


def test_nothing_heavy_is_imported() -> None:
    import subprocess

    code = (
        "import sys, kdcache.cli, kdcache.report.simulate as s; s.simulated({});"
        "print([m for m in ('torch', 'numpy', 'pyarrow', 'transformers') if m in sys.modules])"
    )
    done = subprocess.run([sys.executable, "-c", code], capture_output=True, text=True, check=True)
    assert done.stdout.strip() == "[]"
