"""The examples as a user copies them: each trains from a cache, and its first loss is the plain formula's.

All of them take the same batches with the same student. With several processes the losses are the same too.
"""

import json
import os
import subprocess
import sys
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from helpers import files_of, make_tokenizer

import kdcache
from kdcache.train.distributed import free_port

HERE = Path(__file__).parent
STUDENT = {
    "model_type": "llama",
    "hidden_size": 32,
    "intermediate_size": 64,
    "num_hidden_layers": 2,
    "num_attention_heads": 4,
    "max_position_embeddings": 64,
}
TWO_PROCESSES = ("-m", "torch.distributed.run", "--nproc-per-node", "2", "--master-port")


@pytest.fixture(scope="module")
def root(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of a teacher that prefers the token after the one it reads, and the config of a student."""
    root = tmp_path_factory.mktemp("examples")
    make_tokenizer(root / "tokenizer")
    rng = np.random.default_rng(0)
    with kdcache.CacheWriter(
        root / "cache", num_classes=320, tokenizer=root / "tokenizer", examples_per_shard=20
    ) as writer:
        for _ in range(100):
            tokens = (rng.integers(320) + np.arange(rng.integers(8, 24))) % 320
            logits_PV = rng.normal(size=(len(tokens) - 1, 320)).astype(np.float32)
            logits_PV[np.arange(len(tokens) - 1), tokens[1:]] += 8
            writer.add(tokens, logits_PV)
    (root / "student.json").write_text(json.dumps(STUDENT))
    return root


@pytest.fixture(scope="module")
def first_loss(root: Path) -> float:
    """The divergence at a fresh student's own logits of the first batch."""
    cache = kdcache.open_cache(root / "cache")
    student = kdcache.make_student(kdcache.StudentConfig(config=STUDENT), cache, seed=0)
    with kdcache.Loader(cache, global_batch=16, seed=0) as loader:
        (batch,) = next(loader)
    inputs = kdcache.Collator(student, cache)(batch)
    with torch.no_grad():
        logits_PV = inputs.at_positions(student(**inputs.model.arguments).logits)
    return float(kdcache.distillation_loss(logits_PV, batch.targets()))


def losses_of(root: Path, example: str, *launcher: str) -> list[float]:
    environment = os.environ | {"OMP_NUM_THREADS": "1", "PYTHONPATH": str(HERE.parent.parent)}
    arguments = [root / "cache", root / "student.json", root / example]
    command = [sys.executable, *launcher, HERE / f"{example}.py", *arguments]
    done = subprocess.run(
        [*map(str, command)], env=environment, capture_output=True, text=True, timeout=300, check=False
    )
    assert done.returncode == 0, done.stderr[-3000:]
    return [float(line.split()[1]) for line in done.stdout.splitlines() if line.startswith("loss ")]


def check(root: Path, example: str, losses: list[float], first_loss: float) -> None:
    assert losses[0] == pytest.approx(first_loss, rel=1e-4)
    assert len(losses) == 12
    assert losses[-1] < 0.8 * losses[0]
    cache, student = kdcache.open_cache(root / "cache"), load(root / example)
    assert kdcache.evaluate_model(student, cache)["kl"] < 0.8 * losses[0]


def load(folder: Path) -> Any:
    from transformers import AutoModelForCausalLM, AutoTokenizer

    assert AutoTokenizer.from_pretrained(folder)("cache").input_ids
    return AutoModelForCausalLM.from_pretrained(folder)


@pytest.fixture(scope="module")
def plain_losses(root: Path) -> list[float]:
    return losses_of(root, "plain_pytorch")


def test_a_loop_of_ones_own(root: Path, first_loss: float, plain_losses: list[float]) -> None:
    check(root, "plain_pytorch", plain_losses, first_loss)


def test_the_trainer_of_transformers(root: Path, first_loss: float) -> None:
    check(root, "hf_trainer", losses_of(root, "hf_trainer"), first_loss)


def test_the_sft_trainer_of_trl(root: Path, first_loss: float) -> None:
    pytest.importorskip("trl", reason="trl is of the extra `examples`")
    check(root, "trl_sft", losses_of(root, "trl_sft"), first_loss)


@pytest.mark.launch
def test_accelerate_with_fsdp2_on_two_processes(root: Path, first_loss: float, plain_losses: list[float]) -> None:
    losses = losses_of(root, "accelerate_fsdp2", *TWO_PROCESSES, str(free_port()))
    check(root, "accelerate_fsdp2", losses, first_loss)
    np.testing.assert_allclose(losses, plain_losses, rtol=1e-3)


def test_a_map_over_partitions_gives_one_cache_whoever_maps(tmp_path: Path) -> None:
    """A pool of two processes and one process in another order; run again it makes nothing. Spark calls the same."""
    from examples.map_partitions import CLASSES, ROWS, cache_of, make

    rows = [f"row {number} " + "of a text " * (number % 5) for number in range(5 * ROWS + 3)]
    (tmp_path / "text.txt").write_text("\n".join(rows))
    command = [sys.executable, HERE / "map_partitions.py", tmp_path / "text.txt", tmp_path / "pool"]
    environment = os.environ | {"PYTHONPATH": str(HERE.parent.parent)}
    done = subprocess.run([*map(str, command)], env=environment, capture_output=True, text=True, check=False)
    assert (done.returncode, done.stdout) == (0, "6 partitions\n"), done.stderr

    settings = {
        "path": tmp_path / "alone",
        "num_classes": CLASSES,
        "teacher": "mine",
        "examples_per_shard": ROWS,
    }
    for number in (5, 3, 4, 0, 1, 2, 3):
        make((number, rows[number * ROWS : (number + 1) * ROWS]), settings)
    with cache_of(settings) as builder:
        builder.finalize(6)
    assert files_of(tmp_path / "pool") == files_of(tmp_path / "alone")
    assert kdcache.open_cache(tmp_path / "pool").manifest.totals.examples == len(rows)
