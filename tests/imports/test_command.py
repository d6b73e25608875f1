"""`kdcache import` as it is typed, a format of one's own, and a student that learns from an imported cache."""

import subprocess
import sys
from pathlib import Path

import numpy as np
import pytest
import torch
from imports import capturing
from imports.conftest import Import

import kdcache
from kdcache.errors import ConfigError
from kdcache.losses.supervision import Supervision
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.train.cautions import first_targets

LOGITS = capturing.table()
TESTS = Path(__file__).parent.parent


def command(*words: object) -> "subprocess.CompletedProcess[str]":
    return subprocess.run(
        [sys.executable, "-m", "kdcache", *map(str, words)], capture_output=True, text=True, cwd=TESTS, check=False
    )


def test_the_command(tokenizer: Path, tmp_path: Path) -> None:
    rows = capturing.vllm_rows(LOGITS, capturing.texts(LOGITS), 5)
    file = capturing.write_jsonl(tmp_path / "scored.jsonl", rows)
    given = ("--tokenizer", tokenizer, "--out", tmp_path / "cache", "--num-classes", 320)
    done = command("import", "jsonl", file, *given, "--teacher", "a table")
    assert done.returncode == 0, done.stderr
    assert "6 examples, 234 positions" in done.stdout
    assert "captured: k 5" in command("inspect", tmp_path / "cache").stdout
    assert command("verify", tmp_path / "cache").returncode == 0

    bad = command("import", "jsonl", tmp_path / "none.jsonl", *given)
    assert (bad.returncode, bad.stderr.count("\n")) == (2, 1)
    cut = capturing.write_jsonl(tmp_path / "cut.jsonl", rows)
    cut.write_text(cut.read_text()[:-900])
    bad = command("import", "jsonl", cut, *given[:2], "--out", tmp_path / "other", "--num-classes", 320)
    assert (bad.returncode, bad.stderr.count("\n")) == (1, 1)
    assert "cut.jsonl:6 is not JSON" in bad.stderr


def test_a_format_of_ones_own(tokenizer: Path, tmp_path: Path) -> None:
    tokens = np.stack(capturing.texts(LOGITS))
    ids, log_p = capturing.likeliest(capturing.log_softmax(LOGITS[tokens]), 4)
    np.savez(tmp_path / "mine.npz", tokens=tokens, ids=ids, log_probs=log_p)
    given = ("--tokenizer", tokenizer, "--out", tmp_path / "cache", "--num-classes", 320)
    done = command("import", "npz", tmp_path / "mine.npz", *given, "--module", "imports.own_format")
    assert done.returncode == 0, done.stderr
    targets = kdcache.open_cache(tmp_path / "cache").read(0, 1).targets()
    assert targets.ids_PE.tolist() == ids[0, :-1].tolist()


def test_a_student_learns_from_it(importing: Import, tmp_path: Path) -> None:
    """A table of bigrams, trained by the loss: it comes near the teacher, which it has never met."""
    rows = capturing.vllm_rows(LOGITS, capturing.texts(LOGITS, 40), 20)
    importing("jsonl", [capturing.write_jsonl(tmp_path / "scored.jsonl", rows)], tmp_path / "cache")
    cache = kdcache.open_cache(tmp_path / "cache")
    batch = cache.read(0, len(cache))
    before = torch.from_numpy(
        np.concatenate([batch.tokens(i)[batch.positions(i)] for i in range(len(batch))]).astype(np.int64)
    )
    targets = batch.targets()
    supervision = Supervision(torch.from_numpy(batch.labels.astype(np.int64)), targets)
    student_VV = torch.zeros(320, 320)
    terms, losses = LossTerms([make_term("divergence")], 320), []
    step_P1 = 2.0 / torch.bincount(before, minlength=320)[before][:, None]
    for _ in range(300):
        gradient_PV = student_VV[before].clone()
        losses.append(float(terms.value_and_gradient_(gradient_PV, supervision).sum()) / len(before))
        student_VV.index_add_(0, before, gradient_PV * step_P1, alpha=-1.0)
    assert losses[-1] < 0.1 * losses[0]
    exact_PV = capturing.log_softmax(LOGITS[before.numpy()])
    found_PV = student_VV[before].log_softmax(-1).double().numpy()
    p_PE = np.take_along_axis(np.exp(exact_PV), targets.ids_PE.numpy(), 1)
    q_PE = np.take_along_axis(np.exp(found_PV), targets.ids_PE.numpy(), 1)
    assert np.abs(p_PE - q_PE).max() < 0.05
    first = first_targets(cache)
    LossTerms([make_term("divergence")], 320).check(first)
    for term, message in (
        (make_term("divergence", temperature=2.0), "temperature 2 is not in the cache"),
        (make_term("entropy"), "do not know the teacher's entropy"),
    ):
        with pytest.raises(ConfigError, match=message):  # what `kdcache train` asks before a run
            LossTerms([term], 320).check(first)
