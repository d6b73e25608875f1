"""Students whose logits neighbours would change: refused with what to set, and scored on one example at a time."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from many_models import CAUSAL, SEQUENCE
from train.tiny import CLASSES, write_cache

from kdcache import CacheWriter
from kdcache.errors import StudentError
from kdcache.store.cache import Cache, open_cache
from kdcache.students.making import make_student
from kdcache.students.scoring import evaluate_model
from kdcache.students.settings import StudentConfig

FNET = {"model_type": "fnet", **SEQUENCE["fnet"][0]}


def of_documents(folder: Path, **task: Any) -> Cache:
    """A finished cache whose examples are one document each."""
    rng = np.random.default_rng(0)
    settings = {"name": "causal_lm", "sequence_length": 40, "packing": "documents", "attention": "document"} | task
    with CacheWriter(folder, num_classes=CLASSES, task=settings) as writer:
        for length in rng.integers(3, 41, 12):
            tokens = rng.integers(0, CLASSES, length)
            writer.add(tokens, rng.normal(0, 3, (length - 1, CLASSES)).astype(np.float32))
    return open_cache(folder)


@pytest.fixture(scope="module")
def documents(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return of_documents(tmp_path_factory.mktemp("documents") / "cache")


@pytest.fixture(scope="module")
def texts(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    """A cache of two classes, texts of 3 to 30 tokens."""
    rng = np.random.default_rng(0)
    folder = tmp_path_factory.mktemp("texts") / "cache"
    task = {"name": "sequence_classification"}
    with CacheWriter(folder, num_classes=2, task=task, labels=("no", "yes")) as writer:
        for length in rng.integers(3, 31, 12):
            tokens = np.concatenate([[0], rng.integers(3, 300, length - 2), [2]])
            writer.add(tokens, rng.normal(0, 3, (1, 2)).astype(np.float32), labels=rng.integers(0, 2, 1))
    return open_cache(folder)


@pytest.mark.parametrize("name", ["opt", "bloom", "mpt", "mamba", "rwkv", "gpt_oss", "lfm2", "jamba"])
def test_any_student_trains_and_is_scored_on_a_cache_of_documents(documents: Cache, name: str) -> None:
    """Logits are those of each document alone."""
    settings = {"model_type": name, **CAUSAL[name][0], "vocab_size": CLASSES}
    student = make_student(StudentConfig(config=settings), documents, 0).eval()
    figures = evaluate_model(student, documents, batch_examples=4)
    expected = []
    for i in range(len(documents)):
        batch = documents.read(i, i + 1)
        with torch.no_grad():
            rows = student(input_ids=torch.from_numpy(batch.tokens(0))[None]).logits[0, batch.positions(0)]
        expected.append(torch.nn.functional.cross_entropy(rows, torch.from_numpy(batch.labels)))
    counts = [documents.read(i, i + 1).num_positions for i in range(len(documents))]
    mean = sum(float(loss) * n for loss, n in zip(expected, counts, strict=True)) / sum(counts)
    assert figures["label_nll"] == pytest.approx(mean, rel=1e-4)


@pytest.mark.parametrize("name", ["mamba", "lfm2"])
def test_packed_documents_are_refused_in_training_and_in_evaluation(tmp_path: Path, name: str) -> None:
    packed = open_cache(write_cache(tmp_path / "packed", examples=8))
    settings = {"model_type": name, **CAUSAL[name][0]}
    message = r"does not keep packed documents apart \(log-prob.*: dump with task.packing: documents or"
    with pytest.raises(StudentError, match=message) as caught:
        make_student(StudentConfig(config=settings), packed, 0)
    assert "\n" not in str(caught.value)
    causal = of_documents(tmp_path / "causal", packing="windows", attention="causal")
    student = make_student(StudentConfig(config=settings), causal, 0)
    with pytest.raises(StudentError, match=message):
        evaluate_model(student, packed)


def test_a_student_that_padding_changes_trains_one_by_one(texts: Cache, capsys: pytest.CaptureFixture[str]) -> None:
    config = StudentConfig(config=FNET)
    message = r"FNetForSequenceClassification gives an example other logits beside others .*: set micro_batch: 1"
    with pytest.raises(StudentError, match=message):
        make_student(config, texts, 0)
    student = make_student(config, texts, 0, batch_examples=1)
    alone = evaluate_model(student, texts, batch_examples=1)
    assert "one after the other" not in capsys.readouterr().err
    assert evaluate_model(student, texts, batch_examples=8) == alone
    assert "it is scored on one after the other" in capsys.readouterr().err


def test_a_model_that_sees_what_it_shall_predict_is_no_student(documents: Cache) -> None:
    bert = {"model_type": "bert", **CAUSAL["bert"][0]}
    with pytest.raises(StudentError, match=r"BertLMHeadModel lets a token see those after it"):
        make_student(StudentConfig(config=bert), documents, 0)
    make_student(StudentConfig(config=bert | {"is_decoder": True}), documents, 0)
