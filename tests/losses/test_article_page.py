"""ARTICLE.md names tests that exist and shows terms that a training config takes."""

import re
from pathlib import Path

import pytest
import yaml

from kdcache.losses.temperature import softmax_temperature
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms

REPO = Path(__file__).parent.parent.parent
PAGE = (REPO / "kdcache" / "losses" / "ARTICLE.md").read_text(encoding="utf-8")
BLOCKS = re.findall(r"```yaml\n(.*?)```", PAGE, re.DOTALL)
SECTIONS = re.split(r"^## \d\. ", PAGE, flags=re.MULTILINE)[1:]


@pytest.mark.parametrize("block", BLOCKS)
def test_every_block_is_a_value_of_terms(block: str) -> None:
    terms = [make_term(**term) for term in yaml.safe_load(block)]
    assert len(LossTerms(terms, 12).names) == len(terms)


def test_every_section_shows_a_config_and_a_test_that_exists() -> None:
    assert len(SECTIONS) == 7
    for section in SECTIONS:
        assert "```yaml" in section
        named = re.findall(r"`(tests/\S+\.py)::(\w+)`", section)
        assert named, section[:40]
        for path, test in named:
            assert f"def {test}(" in (REPO / path).read_text(encoding="utf-8"), test


def test_the_two_ways_to_write_one_term() -> None:
    """The article's T = 2 is the usual 1/2, and the table says of each T what the schedule does."""
    (article,), (usual,) = (yaml.safe_load(block) for block in BLOCKS[1:3])
    terms = [make_term(**term) for term in (article, usual)]
    assert terms[0].softmax_temperature == terms[1].softmax_temperature == 0.5
    rows = {line.split("|")[1].strip(): line.split("|")[2:-1] for line in PAGE.splitlines() if line.startswith("| ")}
    numbers = {"¼": 0.25, "½": 0.5}
    for cells in zip(*(rows[name] for name in ("article's T", "factor of z", "usual t")), strict=True):
        ours, factor, theirs = (cell.strip() for cell in cells)
        if "→" in ours or ours == "1":
            continue
        expected = softmax_temperature(_number(ours, numbers), "article")
        assert _number(theirs, numbers) == pytest.approx(expected)
        assert _number(factor, numbers) == pytest.approx(1 / expected)


def _number(text: str, named: dict[str, float]) -> float:
    over, _, under = text.partition("/")
    return named[text] if text in named else float(over) / float(under or 1)
