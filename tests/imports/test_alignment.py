"""Distributions that stand one token off are told from the data, and moved where they are asked to be."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
from imports import capturing
from imports.conftest import Import

from kdcache.errors import CorpusError
from kdcache.imports.alignment import agreement, check_alignment
from kdcache.imports.capture import Captured
from kdcache.store.cache import open_cache

LOGITS = capturing.table()
OF = capturing.texts(LOGITS)


def moved(by: int) -> list[dict[str, Any]]:
    """As axolotl's rows, with row j the distribution of token j + 1 + by."""
    rows = []
    for tokens in OF:
        ids, log_p = capturing.likeliest(capturing.log_softmax(LOGITS[np.roll(tokens, -by)]), 5)
        rows.append({"input_ids": tokens.tolist(), "target_token_ids": ids.tolist(), "target_logprobs": log_p.tolist()})
    return rows


@pytest.mark.parametrize("by", [-2, -1, 1])
def test_a_shift_is_told_and_mended(by: int, importing: Import, tmp_path: Path) -> None:
    file = capturing.write_jsonl(tmp_path / "moved.jsonl", moved(by))
    with pytest.raises(CorpusError, match=f"later|earlier.*give --shift {by}, or --no-alignment-check") as refused:
        importing("jsonl", [file], tmp_path / "cache")
    assert f"--shift {by}," in str(refused.value)
    importing("jsonl", [file], tmp_path / "cache", shift=by)
    cache = open_cache(tmp_path / "cache")
    batch = cache.read(0, 1)
    tokens = OF[0]
    for row, position in enumerate(batch.positions(0).tolist()):
        if 0 <= position - by < len(tokens) - abs(by):
            exact = capturing.log_softmax(LOGITS[tokens[position]])
            assert batch.targets().top_P[row] == exact.argmax()


def test_it_can_be_left_unasked(importing: Import, tmp_path: Path) -> None:
    file = capturing.write_jsonl(tmp_path / "moved.jsonl", moved(1))
    importing("jsonl", [file], tmp_path / "cache", check_alignment=False)


def text(tokens: np.ndarray, top: np.ndarray) -> Captured:
    ones = np.ones(len(top), np.int64)
    return Captured("x", tokens, np.arange(len(top)), ones, top, -0.1 * ones)


def test_text_that_repeats_itself_fits_everywhere() -> None:
    tokens = np.full(200, 7)
    assert check_alignment([text(tokens, tokens[1:])], 0) is None


def test_tokens_that_fit_nowhere_are_warned_of() -> None:
    rng = np.random.default_rng(0)
    one = text(rng.integers(0, 5000, 400), rng.integers(0, 5000, 399))
    assert agreement([one]).share(0) < 0.02
    assert "look at the tokens and the tokenizer" in (check_alignment([one], 0) or "")


def test_a_few_positions_say_nothing() -> None:
    assert check_alignment([text(np.arange(9), np.arange(8))], 0) is None
