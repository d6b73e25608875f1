"""A task of a user's own, through every command as the built-in ones go."""

import json
import random
from collections.abc import Callable
from pathlib import Path

import pytest
import yaml
from classes import MOODS, moods, write_rows
from helpers import kdcache as in_a_process
from tasks.small_runs import BERT, make_teacher

import kdcache

MODULE = "extending.preference"


def pairs(count: int, seed: int) -> list[dict[str, str]]:
    """Two texts, of which the chosen one is brighter."""
    rng = random.Random(seed)
    rows = []
    for row in moods(count, seed):
        plain = [word for word in row["text"].split() if word not in MOODS["bright"]] or ["ash"]
        rows.append({"chosen": " ".join([*plain, *rng.choices(MOODS["bright"], k=3)]), "rejected": " ".join(plain)})
    return rows


@pytest.fixture
def caches(tmp_path: Path, command: Callable) -> dict[str, Path]:
    make_teacher(tmp_path / "teacher", num_labels=1)
    found = {}
    for name, count, seed in (("train", 48, 0), ("held-out", 20, 1)):
        rows = write_rows(tmp_path / f"{name}.jsonl", pairs(count, seed))
        settings = {
            "module": MODULE,
            "output": str(tmp_path / name),
            "corpus": {"paths": str(rows), "format": "jsonl", "unit_rows": 16},
            "teacher": {"path": str(tmp_path / "teacher"), "dtype": "float32"},
            "task": {"name": "preference"},
            "compute": {"threads": 1},
        }
        path = tmp_path / f"{name}.yaml"
        path.write_text(yaml.safe_dump(settings), encoding="utf-8")
        command("dump-logits", path)
        found[name] = tmp_path / name
    return found


def test_through_dump_verify_inspect_train_and_eval(
    caches: dict[str, Path], command: Callable, train: Callable, tmp_path: Path, capsys: pytest.CaptureFixture[str]
) -> None:
    cache = kdcache.open_cache(caches["train"])
    assert (len(cache), cache.manifest.header.class_names) == (96, ["score"])
    assert cache.read(0, 4).labels.tolist() == [1, 0, 1, 0]
    command("verify", caches["train"], "--module", MODULE)
    assert "every digest and count is right" in capsys.readouterr().out
    command("inspect", caches["train"], "--module", MODULE)
    assert "% of the pairs right" in capsys.readouterr().out

    losses = train(caches["train"], tmp_path / "student", BERT, [{"name": "squared_error"}], steps=24)
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    capsys.readouterr()
    options = ("--cache", caches["held-out"], "--module", MODULE)
    command("eval", tmp_path / "student", *options, "--json")
    teacher, student = json.loads(capsys.readouterr().out)
    assert 0 <= teacher["pairs_right"] <= 1
    assert 0 <= student["pairs_right"] <= 1
    command("eval", tmp_path / "student", *options)
    assert "pairs right" in capsys.readouterr().out


def test_a_cache_of_a_task_that_is_not_known_says_so(caches: dict[str, Path]) -> None:
    """Without the module that registers it."""
    done = in_a_process("verify", caches["train"])
    assert "or a module of yours that registers it: feature task/preference (`module` in" in done.stderr
    assert done.returncode == 1
