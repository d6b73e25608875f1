"""The bench itself is not run here: its parts can be imported, and the page is what its results say."""

import re
from pathlib import Path

import numpy as np
import pytest
import torch

from tests.bench import __main__ as command
from tests.bench import page
from tests.bench.part import PARTS, Part, load
from tests.bench.polynomial import PROFILES
from tests.bench.running import read
from tests.bench.shares import HEADER, RS_KD, Result, share_lines

RESULT = {
    "date": "2026-01-01 00:00 UTC",
    "quick": False,
    "commit": "0123456789",
    "machine": "2 cores",
    "versions": {"torch": "2.9"},
    "seconds": 90,
    "rows": {"ratio": 1.5},
}
PART = Part(name="mine", title="Mine", minutes=1, run=lambda quick: {}, render=lambda rows: f"ratio {rows['ratio']}")


@pytest.mark.parametrize("name", PARTS)
def test_a_part_can_be_imported_and_its_result_rendered(name: str) -> None:
    part = load(name)
    assert part.name == name
    assert (Path(page.__file__).parent / f"{name}.py").exists()
    result = read(command.RESULTS, name)
    text = page.page([(part, result)])
    assert f"## {part.title}" in text
    assert f"python -m tests.bench {name}" in text


def test_the_parts_fit_into_an_hour() -> None:
    assert sum(load(name).minutes for name in PARTS if load(name).usual) <= 60


@pytest.mark.parametrize(("name", "documented"), [("recommended", 312), ("budget", 114)])
def test_the_record_of_distillkit_takes_what_its_page_says(name: str, documented: int) -> None:
    """About 300 and 114 bytes: of ids of 16 bits, those of 49,152 classes."""
    profile = PROFILES[name]
    assert profile.documented_bytes(49_152) == documented
    logits_PV = torch.randn(8, 256, generator=torch.Generator().manual_seed(0)).sort(-1, descending=True).values
    arrays, targets = profile.made(logits_PV, "ghost")
    assert [arrays[field.name].dtype for field in profile.fields(256)] == [np.uint16, np.uint16, np.float32]
    exact_PV = logits_PV.softmax(-1)
    probs_Pk = targets.log_probs(1.0).exp()
    torch.testing.assert_close(probs_Pk[:, : profile.exact], exact_PV[:, : profile.exact], rtol=0.05, atol=0)
    torch.testing.assert_close(probs_Pk, exact_PV[:, : profile.k], rtol=0.5, atol=0)


def test_the_page_is_what_the_results_say(tmp_path: Path) -> None:
    shown = page.page([(load(name), read(command.RESULTS, name)) for name in PARTS])
    copied = tmp_path / "RESULTS.md"
    copied.write_text(command.PAGE.read_text(encoding="utf-8"), encoding="utf-8")
    page.write(copied, shown)
    assert copied.read_text(encoding="utf-8") == command.PAGE.read_text(encoding="utf-8"), (
        "python -m tests.bench --render"
    )


def test_a_failure_stands_beside_what_was_measured_before() -> None:
    failed = {**RESULT, "failure": {"date": "2026-01-02", "why": "OSError: disk full"}}
    text = page.page([(PART, failed)])
    assert "OSError: disk full" in text
    assert "ratio 1.5" in text
    assert "1.5 minutes" in text
    assert "has not run" in page.page([(PART, None)])


def test_a_page_keeps_what_was_written_by_hand(tmp_path: Path) -> None:
    path = tmp_path / "RESULTS.md"
    path.write_text(f"before\n{page.BEGIN}\nold\n{page.END}\nafter\n")
    page.write(path, page.page([(PART, RESULT)]))
    page.write(path, page.page([(PART, RESULT)]))
    assert re.sub(r"\s+", " ", path.read_text()).count("ratio 1.5") == 1
    assert path.read_text().startswith("before\n")
    assert path.read_text().endswith("\nafter\n")
    assert "old" not in path.read_text()


def test_shares_are_of_differences_inside_a_seed() -> None:
    """Seeds a nat apart leave no error where the records of each differ alike."""

    def learned(setting: str, seed: int, kl: float) -> Result:
        known = {"bytes": 30.0, "kl": {"1.0": kl + seed}, "loss": 2 * (kl + seed), "ece": 0.05}
        return {"setting": setting, "temperature": None if setting == "cross-entropy" else 1.0, "seed": seed, **known}

    apart = {"cross-entropy": (0.5, 0.5), "dense": (0.1, 0.1), RS_KD: (0.12, 0.12), "mine": (0.1, 0.12)}
    lines = share_lines([learned(name, seed, kl[seed]) for name, kl in apart.items() for seed in (0, 1)])
    found = {line[0]: dict(zip(HEADER[3:7], line[3:7], strict=True)) for line in lines}
    assert found["dense"] == {
        "KL to the teacher": "0.600",
        "above dense": "–",
        "above RS-KD": "-0.0200 ± 0.0000",
        "share of the gap": "100.0% ± 0.0%",
    }
    assert found["mine"]["above dense"] == "+0.0100 ± 0.0100"
    assert found["mine"]["above RS-KD"] == "-0.0100 ± 0.0100"
    assert found["mine"]["share of the gap"] == "97.5% ± 2.5%"
    assert found["cross-entropy"]["share of the gap"] == "0.0% ± 0.0%"
