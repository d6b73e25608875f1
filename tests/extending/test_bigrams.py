"""An engine of one's own, one file, through dump, verify --teacher and a training loop."""

from collections.abc import Callable
from pathlib import Path

import pytest
import torch
from helpers import sentences
from own_loop import LLAMA

import kdcache


def test_a_teacher_that_is_no_network(
    tmp_path: Path, language_model: Callable, command: Callable, train: Callable, teacher_folder: Path
) -> None:
    engine = {"kind": "bigrams", "text": " ".join(sentences(60))}
    teacher = {"path": str(teacher_folder), "dtype": "float32", "engine": engine}
    settings = language_model(tmp_path / "cache", module="extending.bigrams", teacher=teacher, record={"kind": "dense"})
    command("dump-logits", settings)
    cache = kdcache.open_cache(tmp_path / "cache")
    batch = cache.read(0, 4)
    log_probs_PV = batch.targets().dense_log_probs(1.0)
    tokens_P = torch.cat([torch.from_numpy(batch.tokens(i)[batch.positions(i)].astype("int64")) for i in range(4)])
    first, second = (tokens_P == tokens_P.mode().values).nonzero()[:2, 0]
    assert torch.equal(log_probs_PV[first], log_probs_PV[second]), "a row depends on one token"
    command(
        "verify", tmp_path / "cache", "--teacher", "--sample", 4, "--config", settings, "--module", "extending.bigrams"
    )
    losses = train(tmp_path / "cache", tmp_path / "student", LLAMA, [{"name": "divergence"}])
    assert losses[-1] < losses[0]
    with pytest.raises(kdcache.TeacherError, match="have no output layer"):
        command("dump-logits", settings, "-o", f"output={tmp_path}/other", "-o", "record={kind: factored, rank: 4}")
