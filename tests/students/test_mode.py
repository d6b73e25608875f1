"""A student trains the same way wherever it comes from: its mode, its dropout and what checkpointing keeps."""

from pathlib import Path
from typing import Any

import pytest
import torch
from train.tiny import student_config, train_config, write_cache

from kdcache.losses.terms import LossTerms
from kdcache.models.cut import cut
from kdcache.models.modes import evaluating
from kdcache.store.cache import Cache, open_cache
from kdcache.students.collate import Collator, Inputs
from kdcache.students.loss import with_loss
from kdcache.students.making import make_student
from kdcache.students.scoring import evaluate_model
from kdcache.students.settings import StudentConfig

SOURCES = ("config", "folder", "cut")
DROPPING = student_config(attention_dropout=0.3, num_hidden_layers=4)


@pytest.fixture(scope="module")
def cache(tmp_path_factory: pytest.TempPathFactory) -> Cache:
    return open_cache(write_cache(tmp_path_factory.mktemp("mode") / "cache", examples=8))


@pytest.fixture(scope="module")
def sources(cache: Cache, tmp_path_factory: pytest.TempPathFactory) -> dict[str, dict[str, Any]]:
    """Where a student of four layers comes from."""
    root = tmp_path_factory.mktemp("sources")
    make_student(StudentConfig(config=DROPPING), cache, 0).save_pretrained(root / "folder")
    deep = {**DROPPING, "num_hidden_layers": 6}
    make_student(StudentConfig(config=deep), cache, 0).save_pretrained(root / "deep")
    cut(root / "deep", [0, 1, 2, 5], root / "cut")
    return {"config": {"config": DROPPING}} | {name: {"path": str(root / name)} for name in ("folder", "cut")}


def inputs_of(model: Any, cache: Cache) -> Inputs:
    return Collator(model.student, cache)(cache.read(0, 8))


def kept_bytes(model: Any, cache: Cache) -> int:
    """What the backward pass of a step keeps."""
    kept: dict[int, int] = {}

    def keep(tensor: torch.Tensor) -> torch.Tensor:
        kept[tensor.data_ptr()] = tensor.nbytes
        return tensor

    with torch.autograd.graph.saved_tensors_hooks(keep, lambda tensor: tensor):
        model(inputs_of(model, cache), LossTerms(train_config(Path("c"), Path("o")).terms, 300))
    return sum(kept.values())


@pytest.mark.parametrize("source", SOURCES)
def test_a_student_of_any_source_is_in_train_mode_before_and_after_an_evaluation(
    cache: Cache, sources: dict[str, dict[str, Any]], source: str
) -> None:
    model = with_loss(make_student(StudentConfig(**sources[source]), cache, 0))
    terms = LossTerms(train_config(Path("c"), Path("o")).terms, 300)
    inputs = inputs_of(model, cache)
    for _ in range(2):
        assert all(module.training for module in model.modules())
        first, second = (model(inputs, terms)[0].detach() for _ in range(2))
        assert first != second
        figures = [evaluate_model(model.student, cache) for _ in range(2)]
        assert figures[0] == figures[1]


def test_checkpointing_keeps_as_little_whatever_the_source(cache: Cache, sources: dict[str, dict[str, Any]]) -> None:
    """At the first step and after an evaluation."""
    kept = {}
    for source in SOURCES:
        for checkpointing in (False, True):
            config = StudentConfig(**sources[source], gradient_checkpointing=checkpointing)
            model = with_loss(make_student(config, cache, 0))
            first = kept_bytes(model, cache)
            evaluate_model(model.student, cache)
            kept[source, checkpointing] = first
            assert kept_bytes(model, cache) == first
    for source in SOURCES:
        assert kept[source, False] == kept["config", False]
        assert kept[source, True] == kept["config", True] < kept["config", False] / 2


def test_evaluating_gives_each_submodule_its_own_flag_back() -> None:
    model = torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Sequential(torch.nn.Dropout(), torch.nn.Linear(2, 2)))
    model[1].eval()
    model[1][1].train()
    before = [module.training for module in model.modules()]
    with evaluating(model):
        assert not any(module.training for module in model.modules())
    assert [module.training for module in model.modules()] == before
    with pytest.raises(RuntimeError, match="shapes"), evaluating(model):
        model(torch.zeros(3))
    assert [module.training for module in model.modules()] == before
    assert True in before
    assert False in before


def test_an_evaluation_leaves_a_frozen_part_in_eval_mode(cache: Cache) -> None:
    student = make_student(StudentConfig(config=DROPPING), cache, 0)
    student.model.layers[0].eval()
    before = [module.training for module in student.modules()]
    evaluate_model(student, cache)
    assert [module.training for module in student.modules()] == before
