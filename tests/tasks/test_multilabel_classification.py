"""Multi-label classification: from rows with lists of labels to a table of scores."""

from pathlib import Path
from typing import Any

import numpy as np
import pytest
import torch
from classes import MOODS, moods
from tasks.small_runs import dump, make_teacher, train
from torch.nn.functional import binary_cross_entropy_with_logits, logsigmoid

from kdcache import CacheWriter
from kdcache.errors import CacheError, ConfigError, CorpusError, TeacherError
from kdcache.losses.term import make_term
from kdcache.losses.terms import LossTerms
from kdcache.report.evaluate import columns_of, evaluate_students, render, render_classes
from kdcache.report.inspect import describe
from kdcache.store.verify import verify
from kdcache.students.class_weights import class_weights
from kdcache.students.collate import Collator
from kdcache.students.deployed import usage
from kdcache.students.scoring import evaluate_model
from kdcache.targets.fields import NO_LABEL
from kdcache.tasks import task_of

TASK = {"name": "multilabel_classification"}
LABELS = ("bright", "dark", "long")


def several(count: int, seed: int = 0) -> list[dict[str, Any]]:
    """Texts that are bright, dark, long, some of it or nothing; every tenth without a label."""
    rows = moods(count, seed)
    for number, row in enumerate(rows):
        words = row["text"].split()
        names = [mood for mood in MOODS if any(word in MOODS[mood] for word in words) and number % 3]
        row["label"] = None if number % 10 == 9 else [*names, *(["long"] if len(words) > 8 else [])]
    return rows


@pytest.fixture(scope="module")
def made(tmp_path_factory: pytest.TempPathFactory) -> dict[str, Any]:
    root = tmp_path_factory.mktemp("multilabel")
    names = {"id2label": dict(enumerate(LABELS)), "label2id": {name: i for i, name in enumerate(LABELS)}}
    teacher = make_teacher(root / "teacher", problem_type="multi_label_classification", **names)
    caches = {
        name: dump(root / name, root / "teacher", TASK, several(count, seed))
        for name, count, seed in (("train", 96, 0), ("held-out", 40, 1))
    }
    return {"root": root, "teacher": teacher, **caches}


def test_labels_are_rows_of_yes_and_no(made: dict[str, Any]) -> None:
    cache, rows = made["train"], several(96)
    batch = cache.read(0, len(cache))
    assert verify(str(made["root"] / "train")) == []
    expected = [
        [NO_LABEL] * 3 if row["label"] is None else [int(name in row["label"]) for name in LABELS] for row in rows
    ]
    assert batch.labels.tolist() == expected
    assert cache.manifest.totals.notes == {
        "unlabelled": 9,
        **{f"labelled {name}": sum(row[c] == 1 for row in expected) for c, name in enumerate(LABELS)},
    }
    facts = describe(str(made["root"] / "train"))["score"]
    known = [i for i, row in enumerate(expected) if row[0] != NO_LABEL]
    logits = batch.targets().logits_PE[known]
    labels = torch.tensor(expected, dtype=torch.float32)[known]
    loss = binary_cross_entropy_with_logits(logits, labels, reduction="sum") / len(known)
    assert facts["label_nll"] == pytest.approx(loss.item(), rel=1e-4)


@pytest.mark.parametrize("temperature", [1.0, 2.0])
@pytest.mark.parametrize("kind", ["forward_kl", "reverse_kl", "jsd", "tvd"])
def test_divergences_are_sums_over_independent_classes(made: dict[str, Any], kind: str, temperature: float) -> None:
    """Against the plain formula with sigmoids, value and gradient."""
    cache, task = made["train"], task_of(TASK)
    batch = cache.read(0, 12)
    supervision = Collator(made["teacher"], cache)(batch).supervision
    torch.manual_seed(0)
    logits_PC = torch.randn(12, 3, requires_grad=True)
    term = make_term("divergence", kind=kind, temperature=temperature, temperature_squared=False)
    terms = LossTerms([term], task.row_classes(3))
    rows = task.rows(logits_PC.detach()).clone()
    (value,) = terms.value_and_gradient_(rows, supervision)

    z_PC, t_PC = logits_PC.double() / temperature, batch.targets().logits_PE.double() / temperature
    expected = torch.zeros((), dtype=torch.float64)
    log_q = torch.stack([logsigmoid(z_PC), logsigmoid(-z_PC)])
    log_p = torch.stack([logsigmoid(t_PC), logsigmoid(-t_PC)])
    p, q = log_p.exp(), log_q.exp()
    mean = (p + q) / 2
    expected = {
        "forward_kl": lambda: (p * (log_p - log_q)).sum(),
        "reverse_kl": lambda: (q * (log_q - log_p)).sum(),
        "jsd": lambda: ((p * (log_p - mean.log())).sum() + (q * (log_q - mean.log())).sum()) / 2,
        "tvd": lambda: (p - q).abs().sum() / 2,
    }[kind]()
    expected.backward()
    assert value.item() == pytest.approx(expected.item(), rel=1e-4)
    gradient_PC = rows.reshape(12, 3, 2)[:, :, 0]
    torch.testing.assert_close(gradient_PC, logits_PC.grad.float(), rtol=1e-3, atol=1e-5)


def test_cross_entropy_is_binary(made: dict[str, Any]) -> None:
    cache = made["train"]
    batch = cache.read(0, 20)
    inputs = Collator(made["teacher"], cache)(batch)
    terms = LossTerms([make_term("cross_entropy")], 2)
    logits_PC = torch.randn(20, 3)
    (value,) = terms.value_and_gradient_(inputs.task.rows(logits_PC).clone(), inputs.supervision)
    known = torch.from_numpy(batch.labels[:, 0] != NO_LABEL)
    labels = torch.from_numpy(batch.labels).float()
    expected = binary_cross_entropy_with_logits(logits_PC[known], labels[known], reduction="sum")
    assert value.item() == pytest.approx(expected.item(), rel=1e-5)


def test_a_student_learns_and_is_scored(made: dict[str, Any]) -> None:
    root, cache = made["root"], made["train"]
    terms = [{"name": "cross_entropy"}, {"name": "divergence", "weight": 0.1, "weighting": "entropy"}]
    losses = train(cache, root / "student", terms)
    assert np.mean(losses[-5:]) < 0.8 * np.mean(losses[:5])
    rows = evaluate_students([str(root / "student")], cache=str(root / "held-out"), untrained=True)
    teacher, fresh, row = rows
    assert row["micro_f1"] > max(fresh["micro_f1"], teacher["micro_f1"])
    assert row["label_nll"] < fresh["label_nll"]
    assert teacher["kl"] == 0
    table = render(rows, columns_of(str(root / "held-out")))
    assert all(title in table for title in ("micro-F1", "macro-F1", "mAP", "all right", "ECE", "KL to teacher"))
    assert f"{row['classes'][2]['f1']:.1%}" in render_classes(rows)


def test_the_teacher_itself_agrees_with_its_records(made: dict[str, Any]) -> None:
    held_out = made["held-out"]
    figures = evaluate_model(made["teacher"], held_out)
    assert figures["positions"] == len(held_out)
    assert figures["agreement"] == 1
    assert figures["kl"] == pytest.approx(0, abs=1e-5)
    assert figures["label_nll"] == pytest.approx(figures["teacher_label_nll"], rel=1e-3)
    batch = held_out.read(0, len(held_out))
    known = batch.labels[:, 0] != NO_LABEL
    said = batch.targets().logits_PE.numpy()[known] > 0
    assert figures["subset_accuracy"] == pytest.approx((said == batch.labels[known]).all(1).mean())


def test_what_is_no_multilabel_classification(made: dict[str, Any], tmp_path: Path) -> None:
    with pytest.raises(ConfigError, match="expected a cache whose classes exclude each other"):
        class_weights([make_term("cross_entropy", class_weights="balanced")], made["train"])
    with pytest.raises(TeacherError, match=r"got a teacher for multi_label_classification .* multilabel_cl"):
        dump(tmp_path / "one", made["root"] / "teacher", {"name": "sequence_classification"}, moods(4))
    with pytest.raises(CorpusError, match="got label wide, expected one of bright, dark, long"):
        dump(tmp_path / "other", made["root"] / "teacher", TASK, [{"text": "a", "label": ["wide"]}])
    settings = {"num_classes": 2, "task": TASK, "labels": ["a", "b"]}
    with CacheWriter(tmp_path / "cache", **settings) as writer:
        with pytest.raises(CacheError, match="expected 0 and 1, or -100 in a whole row"):
            writer.add([1], np.zeros((1, 2)), labels=[[1, 2]])
        with pytest.raises(CacheError, match="in a part of a row"):
            writer.add([1], np.zeros((1, 2)), labels=[[1, -100]])
        writer.add([1], np.zeros((1, 2)), labels=[[1, 0]])


def test_classes_are_found_in_the_corpus_and_renamed(tmp_path: Path) -> None:
    from classes import word_piece

    word_piece().save_pretrained(tmp_path / "tokenizer")
    task = TASK | {"label_map": {"long": "lengthy"}}
    cache = dump(tmp_path / "cache", "none", task, several(40), tokenizer=str(tmp_path / "tokenizer"))
    assert cache.manifest.header.class_names == ["bright", "dark", "lengthy"]
    losses = train(cache, tmp_path / "student", [{"name": "cross_entropy"}], steps=40)
    assert sum(losses[-5:]) < 0.9 * sum(losses[:5])


def test_how_a_student_is_used(made: dict[str, Any]) -> None:
    assert 'pipeline("text-classification", model="…", truncation=True, top_k=None)' in usage(
        made["teacher"], made["train"]
    )
