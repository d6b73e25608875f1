"""verify --teacher tells apart what a teacher does to itself, what is stored of it, and what no record holds."""

import json
import shutil
from collections.abc import Callable, Iterator
from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
import yaml
from classes import MOODS, moods
from helpers import Run, make_model, make_tokenizer, sentences, write_jsonl
from tasks.small_runs import dump, make_teacher

from kdcache import CacheWriter
from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.dump.teacher import Teacher
from kdcache.launcher import World
from kdcache.report.teacher_check import check_teacher, render
from kdcache.store.builder import CacheBuilder
from kdcache.store.cache import open_cache

RECORDS: dict[str, Any] = {
    "sampled": {"exact_top_k": 8},
    "drawn": {"kind": "drawn"},
    "drawn bare": {"kind": "drawn", "keep": []},
    "top_k": {"kind": "top_k", "k": 8, "tail": "renormalise"},
    "factored": {"kind": "factored", "rank": 16, "exact_top_k": 4},
    "dense": {"kind": "dense", "logit_dtype": "float32"},
    "two": [{"kind": "sampled"}, {"kind": "features"}],
    "features": {"kind": "features"},
}


def settings_of(folder: Path, name: str) -> dict[str, Any]:
    return {
        "output": str(folder / name),
        "corpus": {"paths": str(folder / "corpus.jsonl"), "format": "jsonl", "unit_rows": 10},
        "teacher": {"path": str(folder / "teacher"), "dtype": "float32"},
        "task": {"sequence_length": 64},
        "compute": {"threads": 1, "batch_tokens": 192, "block_positions": 50},
        "record": RECORDS[name],
    }


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> Path:
    """A cache of each kind of record, and the settings file of each."""
    folder = tmp_path_factory.mktemp("teacher-check")
    make_tokenizer(folder / "teacher")
    make_model(folder / "teacher", vocab_size=330)
    write_jsonl(folder / "corpus.jsonl", sentences(40))
    for name in RECORDS:
        (folder / f"{name}.yaml").write_text(yaml.safe_dump(settings_of(folder, name)))
        run_dump(DumpConfig.model_validate(settings_of(folder, name)), World())
    return folder


@pytest.mark.parametrize("name", RECORDS)
def test_a_sound_cache_is_what_its_teacher_gives(made: Path, name: str) -> None:
    facts = check_teacher(str(made / name), str(made / "teacher"), sample=9)
    assert facts["examples"] == 9
    assert facts["shards"] == 4
    assert facts["stored"]["differing"] == 0, facts
    assert facts["itself"]["kl"] == {"mean": 0.0, "max": 0.0}
    assert facts["verdict"]["faithful"]
    assert facts["positions"] > 100
    knows = name in ("factored", "dense", "top_k")
    assert [*facts["left_out"]] == (["1", "2"] if knows else [])
    noisy_at = {"sampled": ["1", "2"], "two": ["1", "2"], "drawn": ["1"], "drawn bare": ["1"]}
    assert [*facts["noise"]] == noisy_at.get(name, [])
    if name == "dense":
        assert facts["left_out"]["2"]["max"] < 1e-5
    if name == "factored":
        assert 1e-4 < facts["left_out"]["1"]["mean"] < 1
    assert json.loads(json.dumps(facts)) == facts
    assert "bit for bit" in render(facts)


def test_the_table_and_the_command(run: Run, made: Path) -> None:
    status, out, err = run("verify", made / "sampled", "--teacher", "--sample", 4, "--config", made / "sampled.yaml")
    assert status == 0, err
    assert "positions that differ" in out
    assert "noise of a gradient at T = 2" in out
    assert out.splitlines()[-1].startswith("the cache holds what this teacher gives, bit for bit")
    status, out, _ = run("verify", made / "sampled", "--teacher", made / "teacher", "--sample", 2, "--json")
    assert status == 0
    assert json.loads(out)["examples"] == 2
    assert run("verify", made / "sampled", "--teacher", made / "teacher", "--repair")[0] == 2
    status, _, err = run("verify", made / "sampled", "--teacher", made / "teacher", "--seed", "x")
    assert status == 2


def test_the_sample_is_the_same_for_a_seed(made: Path) -> None:
    first, again, other = (
        check_teacher(str(made / "sampled"), str(made / "teacher"), sample=2, seed=seed)["positions"]
        for seed in (1, 1, 2)
    )
    assert first == again
    assert first != other


def test_another_teacher_is_told_before_it_is_loaded(run: Run, made: Path, tmp_path: Path) -> None:
    shutil.copytree(made / "teacher", tmp_path / "moved")
    assert run("verify", made / "sampled", "--teacher", tmp_path / "moved", "--sample", 1)[0] == 0
    make_model(tmp_path / "moved", vocab_size=330, seed=1)
    status, out, err = run("verify", made / "sampled", "--teacher", tmp_path / "moved")
    assert status == 1
    assert out == ""
    assert "moved is not the teacher of" in err
    assert "weights_sha256" in err
    assert "loading" not in err


def changed(folder: Path, change: Callable[[np.ndarray], np.ndarray]) -> None:
    """Commit other maxima than the teacher's in every shard."""
    cache = open_cache(folder)
    builder = CacheBuilder(folder, cache.manifest.header)
    for commit in cache.manifest.shards:
        arrays = cache.read_shard(commit.unit).arrays
        arrays = arrays | {"maximum": change(arrays["maximum"])}
        builder.commit(commit.unit, arrays, source_sha256=commit.source_sha256, notes=commit.notes)
    builder.finalize(len(cache.manifest.shards), corpus=cache.manifest.corpus)


def test_a_cache_of_other_logits_is_refused(run: Run, made: Path, tmp_path: Path) -> None:
    cache = Path(shutil.copytree(made / "sampled", tmp_path / "cache"))
    changed(cache, lambda maximum: maximum + np.float32(0.25))
    assert run("verify", cache)[0] == 0, "its digests are right"
    status, out, err = run("verify", cache, "--teacher", made / "teacher")
    assert status == 1
    assert "is not what this teacher gives" in out
    assert "logits by up to 0.25, while two runs of this teacher are the same" in err


@pytest.fixture
def unsteady(monkeypatch: pytest.MonkeyPatch) -> None:
    """A teacher whose logits differ from run to run."""
    rows, generator = Teacher.rows, torch.Generator().manual_seed(0)

    def noisy(self: Teacher, *arguments: Any, **named: Any) -> Iterator[Any]:
        for part, logits_PV, hidden_PD in rows(self, *arguments, **named):
            noise_PV = torch.rand(logits_PV.shape, generator=generator) * 0.01
            yield part, logits_PV + noise_PV, hidden_PD

    monkeypatch.setattr(Teacher, "rows", noisy)


@pytest.mark.usefixtures("unsteady")
def test_a_teacher_that_differs_from_itself(run: Run, made: Path, tmp_path: Path) -> None:
    facts = check_teacher(str(made / "top_k"), str(made / "teacher"))
    assert facts["itself"]["kl"]["max"] > 0
    assert 0.005 < facts["itself"]["logits"]["max"] < 0.011
    assert facts["stored"]["differing"] > 0
    assert facts["verdict"]["faithful"], facts
    cache = Path(shutil.copytree(made / "top_k", tmp_path / "cache"))
    changed(cache, lambda maximum: maximum + np.float32(0.25))
    assert run("verify", cache, "--teacher", made / "teacher")[0] == 1


TASKS: dict[str, tuple[dict[str, Any], dict[str, Any], Callable[[dict[str, Any]], Any]]] = {
    "sequence_classification": (
        {"id2label": dict(enumerate(MOODS)), "label2id": {name: i for i, name in enumerate(MOODS)}},
        {},
        lambda row: row["label"],
    ),
    "multilabel_classification": (
        {
            "problem_type": "multi_label_classification",
            "id2label": dict(enumerate(MOODS)),
            "label2id": {name: i for i, name in enumerate(MOODS)},
        },
        {},
        lambda row: [row["label"]],
    ),
    "regression": ({"num_labels": 2, "problem_type": "regression"}, {}, lambda row: [0.5, 1.5]),
}


@pytest.mark.parametrize("tokenizer", ["teacher", "characters"])
@pytest.mark.parametrize("task", TASKS)
def test_every_task(tmp_path: Path, task: str, tokenizer: str) -> None:
    config, settings, label = TASKS[task]
    make_teacher(tmp_path / "teacher", **config)
    rows = [{"text": row["text"], "label": label(row)} for row in moods(40)]
    given = {} if tokenizer == "teacher" else {"tokenizer": tokenizer}
    dump(tmp_path / "cache", tmp_path / "teacher", {"name": task, **settings}, rows, **given)
    dumped = {
        "output": str(tmp_path / "cache"),
        "corpus": {
            "paths": str(tmp_path / "cache.jsonl"),
            "format": "jsonl",
            "label_field": "label",
            "unit_rows": 16,
        },
        "teacher": {"path": str(tmp_path / "teacher"), "dtype": "float32"},
        "task": {"max_length": 64, "name": task},
        "compute": {"threads": 1},
        **given,
    }
    (tmp_path / "dump.yaml").write_text(yaml.safe_dump(dumped))
    facts = check_teacher(str(tmp_path / "cache"), None, sample=7, config=str(tmp_path / "dump.yaml"))
    assert facts["stored"]["differing"] == 0, facts
    assert facts["positions"] == 7
    assert (facts["itself"]["kl"] is None) == (task == "regression")
    assert [*facts["left_out"]] == ([] if task == "regression" else ["1", "2"])


def test_caches_that_say_nothing_of_their_teacher(run: Run, tmp_path: Path, made: Path) -> None:
    with CacheWriter(tmp_path / "own", num_classes=40, teacher="mine") as writer:
        writer.add(np.arange(8), np.zeros((7, 40), np.float32))
    status, _, err = run("verify", tmp_path / "own", "--teacher", made / "teacher")
    assert status == 1
    assert "was made by another program, which ran its teacher mine" in err


@pytest.mark.parametrize("name", ["sampled", "dense"])
def test_a_merged_cache_is_what_its_teacher_gives(run: Run, made: Path, tmp_path: Path, name: str) -> None:
    """A record was drawn with the number that its example had before; of several teachers there is none to run."""
    for part, seed in (("a", 1), ("b", 2)):
        write_jsonl(tmp_path / f"{part}.jsonl", sentences(25, seed))
        corpus = {"paths": str(tmp_path / f"{part}.jsonl"), "format": "jsonl", "unit_rows": 10 * seed}
        settings = settings_of(made, name) | {"output": str(tmp_path / part), "corpus": corpus, "seed": seed}
        run_dump(DumpConfig.model_validate(settings), World())
    status, _, err = run("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "ab")
    assert status == 1
    assert "differ in seed: seed is 2 and 1; where that is meant, give --allow seed" in err
    status, _, err = run("merge", tmp_path / "a", tmp_path / "b", "--out", tmp_path / "ab", "--allow", "seed")
    assert status == 0, err
    facts = check_teacher(str(tmp_path / "ab"), str(made / "teacher"), sample=9)
    assert (facts["shards"], facts["stored"]["differing"]) == (5, 0)
    assert facts["verdict"]["faithful"]
    status, out, _ = run("inspect", tmp_path / "ab")
    assert out.count("made of    ") == 2
    other = settings_of(made, name) | {"output": str(tmp_path / "c"), "teacher": {"path": str(tmp_path / "other")}}
    make_tokenizer(tmp_path / "other")
    make_model(tmp_path / "other", vocab_size=330, seed=9)
    run_dump(DumpConfig.model_validate(other), World())
    sources = [made / name, tmp_path / "c"]
    status, _, err = run("merge", *sources, "--out", tmp_path / "of-two")
    assert status == 1
    assert "differ in teacher: teacher." in err
    assert run("merge", *sources, "--out", tmp_path / "of-two", "--allow", "teacher")[0] == 0
    status, _, err = run("verify", tmp_path / "of-two", "--teacher", made / "teacher")
    assert status == 1
    assert "merged of caches whose teachers are different" in err
