"""Training and scoring from a cache in a store, and a cache in memory: the same as from a disk."""

import json
import random
from pathlib import Path
from typing import Any

import fsspec
import yaml
from helpers import files_of, kdcache
from remote.serving import FAULTS, Run, Store


def train_yaml(path: Path, cache: str, output: Path) -> Path:
    settings: dict[str, Any] = {
        "cache": cache,
        "output": str(output),
        "student": {
            "config": {
                "model_type": "llama",
                "vocab_size": 330,
                "hidden_size": 32,
                "intermediate_size": 64,
                "num_hidden_layers": 1,
                "num_attention_heads": 4,
                "num_key_value_heads": 2,
                "max_position_embeddings": 64,
            }
        },
        "terms": [{"name": "divergence", "weight": 0.7}, {"name": "cross_entropy", "weight": 0.3}],
        "global_batch": 4,
        "stream": {"lanes": 4},
        "micro_batch": 2,
        "steps": 3,
        "optimizer": {"learning_rate": 0.01},
        "checkpoint": {"every": 0},
        "eval": {"cache": cache, "max_examples": 4},
        "log_every": 1,
        "device": "cpu",
    }
    path.write_text(yaml.safe_dump(settings))
    return path


def numbers_of(run: Path) -> list[dict[str, Any]]:
    """What the log says of each step, without what a clock decides."""
    lines = [json.loads(line) for line in (run / "log.jsonl").read_text().splitlines()]
    return [{key: line[key] for key in ("step", "group", "loss", "label_nll") if key in line} for line in lines]


def test_train_and_eval_from_a_store(store: Store, run: Run, config: Path, tmp_path: Path) -> None:
    """A twelfth of all answers is bad; the log and the student's weights are those of a run from a disk."""
    local = tmp_path / "cache"
    assert run("dump-logits", config, "-o", f"output={local}")[0] == 0
    assert run("dump-logits", config)[0] == 0
    rng = random.Random(0)
    store.proxy.fault = lambda method, path: rng.choice(FAULTS[:3]) if rng.random() < 1 / 12 else None
    environment = store.env | {"OMP_NUM_THREADS": "1"}
    weights, scores = [], []
    for name, cache in (("disk", str(local)), ("store", f"{store.url}/cache")):
        output = tmp_path / name
        done = kdcache("train", train_yaml(tmp_path / f"{name}.yaml", cache, output), env=environment)
        assert done.returncode == 0, done.stderr
        scored = kdcache("eval", output / "student", "--cache", cache, "--device", "cpu", "--json", env=environment)
        assert scored.returncode == 0, scored.stderr
        assert "Traceback" not in done.stderr + scored.stderr
        weights.append((output / "student" / "model.safetensors").read_bytes())
        scores.append([(row["label_nll"], row["kl"]) for row in json.loads(scored.stdout)])
    assert weights[0] == weights[1]
    assert scores[0] == scores[1]
    assert numbers_of(tmp_path / "disk") == numbers_of(tmp_path / "store")
    assert not list(Path.cwd().glob("s3:*"))


def test_a_cache_in_memory(teacher_folder: Path, run: Run, config: Path, tmp_path: Path) -> None:
    """Dump, go on, verify and convert there and back, from a corpus that lies there too."""
    where = f"memory://{tmp_path}"
    fsspec.filesystem("memory").pipe_file(f"{tmp_path}/rows.jsonl", (tmp_path / "rows.jsonl").read_bytes())
    rows = ("-o", f"corpus.paths={where}/rows.jsonl")
    for output in (f"{where}/cache", str(tmp_path / "cache")):
        status, said = run("dump-logits", config, *rows, "-o", f"output={output}")
        assert status == 0, said
    status, said = run("dump-logits", config, *rows, "-o", f"output={where}/cache")
    assert (status, "finished already" in said) == (0, True), said
    for command in (
        ("verify", f"{where}/cache"),
        ("inspect", f"{where}/cache"),
        ("convert", f"{where}/cache", f"{where}/arrow", "--to", "arrow"),
        ("verify", f"{where}/arrow"),
        ("convert", f"{where}/arrow", str(tmp_path / "back"), "--to", "zarr"),
        ("convert", str(tmp_path / "cache"), f"{where}/copy", "--to", "arrow"),
    ):
        status, said = run(*command)
        assert status == 0, said
    shards = {name: data for name, data in files_of(tmp_path / "cache").items() if name.endswith(".zip")}
    memory = fsspec.filesystem("memory")
    assert {name: memory.cat_file(f"{tmp_path}/cache/{name}") for name in shards} == shards
    assert {name: data for name, data in files_of(tmp_path / "back").items() if name.endswith(".zip")} == shards
