"""Every kind of finished student, loaded as a stranger loads it, has the scores that `kdcache eval` prints."""

import json
import os
import random
import subprocess
import sys
from pathlib import Path
from typing import Any

import pytest
import torch
from classes import DECLARED, MOODS, TAGS, TOKENIZERS, make_classifier, moods, tagged, write_conll, write_rows
from helpers import make_model, make_tokenizer, sentences, write_jsonl

from kdcache.dump.run import run_dump
from kdcache.dump.settings import DumpConfig
from kdcache.launcher import World
from kdcache.losses.terms import LossTerms
from kdcache.models.cut import cut
from kdcache.report.evaluate import evaluate_students
from kdcache.store.cache import Cache, open_cache
from kdcache.stream.mixture import Mixture
from kdcache.students.collate import Collator
from kdcache.students.loss import with_loss
from kdcache.students.making import make_student
from kdcache.train.export import Told, write_student
from kdcache.train.plan import plan
from kdcache.train.settings import TrainConfig

WIDTHS = {"hidden_size": 16, "num_hidden_layers": 1, "num_attention_heads": 2, "intermediate_size": 32}
BERT = {"model_type": "bert", **WIDTHS, "max_position_embeddings": 160, "initializer_range": 0.3}
ROBERTA = BERT | {"model_type": "roberta", "type_vocab_size": 1}
GPT2 = {"model_type": "gpt2", "n_embd": 16, "n_layer": 1, "n_head": 2, "n_positions": 160, "initializer_range": 0.3}
LLAMA = {"model_type": "llama", **WIDTHS, "num_key_value_heads": 1, "max_position_embeddings": 256}
BILSTM = {"model_type": "kdcache_bilstm", "embedding_size": 8, "hidden_size": 12}
BAG = {"model_type": "kdcache_embedding_bag", "embedding_size": 8, "hidden_size": 8}
CLASSIFICATIONS = [
    ("sequence_classification", "byte_level", ROBERTA, {}),
    ("sequence_classification", "byte_level", GPT2, {}),
    ("sequence_classification", "word_piece_declared", BERT, {}),
    ("sequence_classification", "word_piece_declared", "folder", {}),
    ("sequence_classification", "word_piece_declared", "cut", {}),
    ("sequence_classification", "characters", GPT2, {"max_length": 40}),
    ("sequence_classification", "characters", BILSTM, {"max_length": 40, "overlong": "tail"}),
    ("sequence_classification", "word_piece", BAG, {"max_length": 12}),
    ("pair", "characters", BERT, {}),
    ("pair", "characters", ROBERTA, {}),
    ("pair", "word_piece", BERT, {}),
    ("pair", "word_piece_declared", BERT, {"max_length": 16}),
    ("pair", "byte_level", ROBERTA, {}),
    ("pair", "xlnet", BERT | {"type_vocab_size": 3}, {}),
    ("token_classification", "byte_level", ROBERTA, {}),
    ("token_classification", "byte_level_prefix", ROBERTA, {}),
    ("token_classification", "unigram", BERT, {}),
    ("token_classification", "metaspace", GPT2, {}),
    ("token_classification", "word_piece_declared", BERT, {}),
    ("token_classification", "word_piece_declared", "folder", {}),
    ("token_classification", "characters", BILSTM, {}),
    ("token_classification", "characters", BERT, {}),
]
LANGUAGE_MODELS: list[Any] = [LLAMA, GPT2 | {"n_positions": 256}, "folder", "cut"]


def finished(folder: Path, cache: Cache, student: dict[str, Any] | Path) -> Path:
    """A student of labels after a few steps, written as `kdcache train` writes it."""
    source = {"config": student} if isinstance(student, dict) else {"path": str(student)}
    terms = [{"name": "cross_entropy"}]
    config = TrainConfig.model_validate(
        {"cache": str(cache.root.url), "output": str(folder), "student": source, "terms": terms, "steps": 6}
    )
    model = make_student(config.student, cache, 0)
    wrapped = with_loss(model)
    optimizer = torch.optim.Adam(wrapped.parameters(), lr=0.002)
    loss_terms, collate = LossTerms(config.terms, cache.manifest.header.num_classes), Collator(model, cache)
    for step in range(6):
        loss, _ = wrapped(collate(cache.read(4 * step, 4 * step + 4)), loss_terms)
        (loss / 20).backward()
        optimizer.step()
        optimizer.zero_grad()
    precision = dict.fromkeys(("parameters", "gradients", "master_weights", "student"), "float32")
    weights = {name: value.detach().clone() for name, value in model.state_dict().items()}
    write_student(folder, plan(config), Mixture.of(cache), model, weights, Told(steps=6, precision=precision))
    return folder


def dumped(folder: Path, corpus: dict[str, Any], task: dict[str, Any], tokenizer: Path | str) -> Cache:
    settings: dict[str, Any] = {
        "output": str(folder),
        "corpus": corpus,
        "teacher": "none",
        "tokenizer": str(tokenizer),
        "task": task,
    }
    settings["compute"] = {"threads": 1}
    run_dump(DumpConfig.model_validate(settings), World())
    return open_cache(folder)


def classification(root: Path, task: str, tokenizer: str, student: Any, settings: dict[str, Any]) -> dict[str, Any]:
    """A job of stranger.py, with the cache that kdcache scores the student on."""
    (DECLARED | TOKENIZERS)[tokenizer]().save_pretrained(root / "tokenizer")
    given = "characters" if tokenizer == "characters" else root / "tokenizer"
    job: dict[str, Any] = {"folder": str(root / "student"), "task": task}
    if task == "token_classification":
        job["rows"] = tagged(24)
        corpus: dict[str, Any] = {"paths": str(write_conll(root / "rows", job["rows"])), "format": "conll"}
    else:
        rows, rng = moods(24), random.Random(0)
        corpus = {"format": "jsonl", "label_field": "label"}
        if task == "pair":
            for row in rows:
                words = row["text"].split()
                rng.shuffle(words)
                row["text_pair"] = " ".join(words[:4])
            corpus["text_pair_field"] = "text_pair"
        job |= {"task": "sequence_classification", "rows": rows}
        corpus["paths"] = str(write_rows(root / "rows", rows))
    names = TAGS if task == "token_classification" else tuple(MOODS)
    cache = dumped(root / "cache", corpus, {"name": job["task"], "max_length": 120, "labels": names, **settings}, given)
    if isinstance(student, str):
        make_classifier(root / "source", job["task"], names, tokenizer=DECLARED[tokenizer](), positions=160)
        student = cut(root / "source", [1], root / "cut") if student == "cut" else root / "source"
    finished(root / "student", cache, student)
    return job | {"cache": str(root / "cache")}


def language_model(root: Path, student: Any) -> dict[str, Any]:
    rows = sentences(24)
    make_tokenizer(root / "tokenizer")
    corpus = {"paths": str(write_jsonl(root / "rows.jsonl", rows)), "format": "jsonl"}
    task = {"packing": "documents", "sequence_length": 256}
    cache = dumped(root / "cache", corpus, task, root / "tokenizer")
    if isinstance(student, str):
        make_model(root / "source", layers=2, positions=256)
        make_tokenizer(root / "source")
        student = cut(root / "source", [1], root / "cut") if student == "cut" else root / "source"
    finished(root / "student", cache, student)
    ended = bool(cache.read(0, 1).tokens(0)[-1] == 0)
    return {
        "folder": str(root / "student"),
        "task": "causal_lm",
        "rows": rows,
        "ended": ended,
        "cache": str(root / "cache"),
    }


@pytest.fixture(scope="module")
def jobs(tmp_path_factory: pytest.TempPathFactory) -> list[dict[str, Any]]:
    """Each with "scores", the stranger's, and "said", kdcache's."""
    root = tmp_path_factory.mktemp("stranger")
    folders = iter(root / str(i) for i in range(len(CLASSIFICATIONS) + len(LANGUAGE_MODELS)))
    made = [classification(next(folders), *case) for case in CLASSIFICATIONS]
    made += [language_model(next(folders), student) for student in LANGUAGE_MODELS]
    asked = [{key: value for key, value in job.items() if key != "cache"} for job in made]
    (root / "jobs.json").write_text(json.dumps(asked), encoding="utf-8")
    environment = {key: value for key, value in os.environ.items() if key != "PYTHONPATH"}
    done = subprocess.run(
        [sys.executable, str(Path(__file__).parents[1] / "stranger.py"), str(root / "jobs.json")],
        env=environment | {"HF_MODULES_CACHE": str(root / "modules"), "OMP_NUM_THREADS": "1"},
        cwd=root,
        capture_output=True,
        text=True,
        timeout=300,
        check=False,
    )
    assert done.returncode == 0, done.stderr[-3000:]
    for job, scores in zip(made, json.loads(done.stdout.splitlines()[-1]), strict=True):
        (said,) = evaluate_students([job["folder"]], cache=job["cache"])
        job |= {"scores": scores, "said": said}
    return made


@pytest.mark.parametrize("number", range(len(CLASSIFICATIONS) + len(LANGUAGE_MODELS)))
def test_a_stranger_gets_the_scores_that_kdcache_prints(jobs: list[dict[str, Any]], number: int) -> None:
    said, scores = jobs[number]["said"], jobs[number]["scores"]
    assert {key: said[key] for key in scores} == pytest.approx(scores, abs=2e-5)


def test_the_scores_are_not_of_constant_students(jobs: list[dict[str, Any]]) -> None:
    """One that says the same of every text has a macro-F1 of a third."""
    macro = [job["said"]["macro_f1"] for job in jobs if "macro_f1" in job["said"]]
    assert sum(value == pytest.approx(1 / 3, abs=1e-3) for value in macro) < len(macro) / 2


def test_the_card_says_how_to_use_a_student(jobs: list[dict[str, Any]]) -> None:
    for job in jobs:
        card = (Path(job["folder"]) / "README.md").read_text(encoding="utf-8")
        assert card.count("from transformers import pipeline") == 1
        own_code = (Path(job["folder"]) / "small_models.py").exists()
        assert ("trust_remote_code=True" in card) == own_code
