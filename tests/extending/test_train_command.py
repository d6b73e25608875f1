"""The extensions of this folder through `kdcache train` itself, with a module of the user's that imports them."""

import json
import os
from pathlib import Path
from typing import Any

import pytest
import yaml
from extending.test_preference import pairs
from helpers import kdcache, sentences, write_jsonl
from own_loop import LLAMA
from tasks.small_runs import BERT, make_teacher

TESTS = Path(__file__).parent.parent


def run(folder: Path, *arguments: object) -> str:
    """The command line in the user's folder, with the extensions to be imported; what it printed."""
    environment = os.environ | {"PYTHONPATH": os.pathsep.join([str(TESTS.parent), str(TESTS)])}
    done = kdcache(*arguments, cwd=folder, env=environment)
    assert done.returncode == 0, done.stderr[-3000:]
    return done.stdout


def through_every_command(
    folder: Path, imports: str, dump: dict[str, Any], student: dict[str, Any], terms: list[dict[str, Any]]
) -> tuple[list[float], list[dict[str, Any]]]:
    """The loss of each step, and eval's rows: the teacher, the untrained student and the trained one."""
    (folder / "mine.py").write_text(imports, encoding="utf-8")
    of_dump = {"module": "mine", "output": "cache", "compute": {"threads": 1}, **dump}
    of_run = {
        "module": "mine",
        "cache": "cache",
        "output": "run",
        "student": {"config": student},
        "terms": terms,
        "global_batch": 8,
        "micro_batch": 4,
        "stream": {"lanes": 4},
        "epochs": 4,
        "log_every": 1,
        "optimizer": {"learning_rate": 0.01},
        "eval": {"cache": "cache"},
        "device": "cpu",
    }
    for name, settings in (("dump.yaml", of_dump), ("run.yaml", of_run)):
        (folder / name).write_text(yaml.safe_dump(settings), encoding="utf-8")
    run(folder, "dump-logits", "dump.yaml")
    assert "every digest and count is right" in run(folder, "verify", "cache", "--module", "mine")
    run(folder, "train", "run.yaml")
    rows = run(folder, "eval", "run/student", "--cache", "cache", "--untrained", "--json", "--module", "mine")
    lines = [json.loads(line) for line in (folder / "run" / "log.jsonl").read_text().splitlines()]
    return [line["loss"] for line in lines if line["group"] == "train"], json.loads(rows)


@pytest.mark.launch
def test_a_divergence_a_record_and_a_backend_at_once(tmp_path: Path, teacher_folder: Path) -> None:
    write_jsonl(tmp_path / "corpus.jsonl", sentences(60))
    dump = {
        "corpus": {"paths": "corpus.jsonl", "format": "jsonl", "unit_rows": 20},
        "teacher": {"path": str(teacher_folder), "dtype": "float32"},
        "task": {"sequence_length": 32},
        "record": {"kind": "label"},
        "backend": "npz",
    }
    imports = "import extending.hellinger\nimport extending.label_only\nimport extending.npz\n"
    terms = [{"name": "divergence", "kind": "hellinger"}, {"name": "cross_entropy", "weight": 0.1}]
    losses, rows = through_every_command(tmp_path, imports, dump, LLAMA, terms)
    assert len([*tmp_path.glob("cache/shards/*/*.npz")]) == 3
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])
    assert len(rows) == 3


@pytest.mark.launch
def test_a_task(tmp_path: Path) -> None:
    make_teacher(tmp_path / "teacher", num_labels=1)
    (tmp_path / "pairs.jsonl").write_text("".join(json.dumps(row) + "\n" for row in pairs(48, 0)), encoding="utf-8")
    dump = {
        "corpus": {"paths": "pairs.jsonl", "format": "jsonl", "unit_rows": 16},
        "teacher": {"path": "teacher", "dtype": "float32"},
        "task": {"name": "preference"},
    }
    losses, rows = through_every_command(
        tmp_path, "import extending.preference\n", dump, BERT, [{"name": "squared_error"}]
    )
    assert sum(losses[-5:]) < 0.7 * sum(losses[:5])
    assert all(0 <= row["pairs_right"] <= 1 for row in rows)
