"""The whole way on small things: teacher, cache, no teacher any more, two students by the real launcher, one table."""

import json
import shutil
from pathlib import Path

import pytest
import yaml
from helpers import kdcache, make_model, make_tokenizer, sentences, write_jsonl


def written(path: Path, settings: dict) -> Path:
    path.write_text(yaml.safe_dump(settings))
    return path


@pytest.mark.launch
def test_one_cache_two_students_and_no_teacher(tmp_path: Path) -> None:
    def done(*arguments: object) -> str:
        ran = kdcache(*arguments, cwd=tmp_path)
        assert ran.returncode == 0, ran.stderr
        return ran.stdout

    make_tokenizer(tmp_path / "teacher")
    make_model(tmp_path / "teacher", vocab_size=330, layers=4)
    for name, count, seed in (("train", 300, 0), ("heldout", 40, 1)):
        write_jsonl(tmp_path / f"{name}.jsonl", sentences(count, seed))
        dump = {
            "output": name,
            "corpus": {"paths": f"{name}.jsonl", "format": "jsonl", "unit_rows": 4},
            "teacher": {"path": "teacher", "dtype": "float32"},
            "task": {"sequence_length": 64},
            "record": {"exact_top_k": 64},
        }
        done("dump-logits", written(tmp_path / f"dump-{name}.yaml", dump))
    done("cut", "teacher", "--layers", "0,3", "--out", "start")

    shutil.rmtree(tmp_path / "teacher")
    for left in tmp_path.glob("*.jsonl"):
        left.unlink()

    shape = yaml.safe_load((tmp_path / "start" / "config.json").read_text())
    students = {
        "random": {"config": {k: shape[k] for k in ("model_type", "num_hidden_layers", "max_position_embeddings")}},
        "cut": {"path": "start"},
    }
    students["random"]["config"] |= {"hidden_size": 32, "intermediate_size": 64, "num_attention_heads": 4}
    for name, student in students.items():
        train = {
            "cache": "train",
            "output": name,
            "student": student,
            "deepspeed": {"zero_optimization": {"stage": 1}},
            "global_batch": 8,
            "micro_batch": 2,
            "epochs": 6,
            "stream": {"lanes": 8},
            "optimizer": {"learning_rate": 1e-2},
            "eval": {"cache": "heldout"},
        }
        done("train", written(tmp_path / f"train-{name}.yaml", train), "--nproc", 2)
    rows = json.loads(done("eval", "random/student", "cut/student", "--cache", "heldout", "--untrained", "--json"))
    teacher, untrained, random, cut = rows
    assert [row["name"] for row in rows] == ["teacher teacher", "untrained random", "random", "cut"]
    assert max(random["kl"], cut["kl"]) < 0.8 * untrained["kl"]
    assert cut["kl"] < random["kl"]
    assert teacher["kl"] == 0
    card = (tmp_path / "cut" / "student" / "README.md").read_text()
    assert json.loads(done("inspect", "train", "--json"))["digest"] in card
